"""Start the ranks: Ray Train's workers, or this process where there is one rank and no Ray is wanted.

Ranks that leave on a notice (`stages/train/notice.py`) have taken a checkpoint. When a node is about to leave they are
started again on the nodes that stay; when the run was told to end, it ends.
"""

import os
import tempfile
import threading
import uuid
from dataclasses import dataclass, replace
from typing import Any

from pipeline.engine import Engine
from pipeline.errors import RunError, UserError
from pipeline.meter import Meter
from pipeline.metrics import count
from pipeline.progress import Reporter
from pipeline.termination import aside, time_to_save
from stages.train.board import BarProgress, BoardProgress, last_standing, progress_shown
from stages.train.checkpoint import CheckpointStore
from stages.train.config import TrainConfig
from stages.train.notice import Notice
from stages.train.rank_errors import NodeTakenError, NoRoomError, RankLostError, translated
from stages.train.spec import Standing, TrainSpec

_ALL_SECONDS = 60.0
"""How long all ranks are waited for where fewer may train."""
_SETTLE_SECONDS = 5.0
"""Before ranks that did not start are started again: meanwhile Ray finds out which nodes are gone."""


def launch(spec: TrainSpec, engine: Engine, reporter: Reporter) -> Standing | None:
    """Run a training to its end, going on from the last checkpoint when a rank or its node is lost.

    Returns:
        Where it stood last, if that is known.

    Raises:
        GradsieveError: as raised in a rank, or RunError where ranks were lost too often.
        Terminated: SIGTERM came; within `cluster.grace_seconds` a checkpoint was taken.
        LimitReachedError: the run has used what it may; a checkpoint was taken.
    """
    with engine.meter.running(**_occupied(spec.config)):
        return _launch(spec, engine, reporter)


def _launch(spec: TrainSpec, engine: Engine, reporter: Reporter) -> Standing | None:
    if engine.config.executor == "in_process":
        with time_to_save(engine.config.grace_seconds) as told:
            notice, standing = _in_this_process(spec, reporter, _Ending(told, engine.meter))
        if notice is Notice.RUN_ENDS:
            engine.meter.check(spec.name)
        return standing
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_placement_patience(spec, engine)))
    engine.ensure_ray()
    with time_to_save(engine.config.grace_seconds) as told:
        ending = _Ending(told, engine.meter)
        with progress_shown(spec, reporter, ending) as board:
            if _fitted(spec, engine, board, ending, reporter):
                return last_standing(board)
    engine.meter.check(spec.name)
    return None


def _fitted(spec: TrainSpec, engine: Engine, board: Any, ending: "_Ending", reporter: Reporter) -> bool:
    """Whether it came to its last step; False once the run shall end, with a checkpoint taken."""
    losses = 0
    while not ending.is_set():
        size = _world_size(spec, engine, reporter)
        try:
            notice = _fit(spec, engine, board, size)
        except NodeTakenError as taken:
            reporter.say(f"{spec.name}: a node was taken away ({taken}); {_going_on(spec)}")
        except RankLostError as lost:
            losses += 1
            if losses > spec.config.max_retries:
                raise _lost_too_often(spec, lost) from lost
            count("retries", what="ranks")
            if isinstance(lost, NoRoomError):
                reporter.say(f"{spec.name}: ranks did not start ({lost}); {_going_on(spec)}")
                ending.told.wait(_SETTLE_SECONDS)
            else:
                reporter.say(f"{spec.name}: a rank was lost ({lost}); {_going_on(spec)}")
        else:
            if notice is Notice.NONE:
                return True
            if notice is Notice.NODE_LEAVES:
                reporter.say(f"{spec.name}: a node is about to leave; {_going_on(spec)}")
    return False


def _placement_patience(spec: TrainSpec, engine: Engine) -> float:
    """Seconds that ranks may wait for nodes, or for other work on them to end, once there seems to be room."""
    patience = max(1.0, engine.config.wait_for_nodes_seconds)
    return min(patience, _ALL_SECONDS) if len(spec.config.world_sizes) > 1 else patience


@dataclass(frozen=True)
class _Ending:
    """SIGTERM came, or the run has used what it may."""

    told: threading.Event
    meter: Meter

    def is_set(self) -> bool:
        return self.told.is_set() or self.meter.reached() is not None


def _occupied(config: TrainConfig) -> dict[str, float]:
    """Cores and GPUs of all ranks."""
    ranks = config.num_workers
    return {"cpus": ranks, "gpus": ranks} if config.use_gpu else {"cpus": ranks * config.threads_per_rank}


def _going_on(spec: TrainSpec) -> str:
    last = CheckpointStore(spec.output).latest()
    return f"starting again on the nodes that there are, from step {last.step if last else 0:,}"


def _lost_too_often(spec: TrainSpec, lost: RankLostError) -> RunError:
    return RunError(
        "ranks were lost too often",
        where=spec.name,
        expected=f"at most {spec.config.max_retries} losses (train.max_retries)",
        found=lost,
        next_step="see why processes died (memory is the usual reason); the same command goes on",
    )


def _in_this_process(spec: TrainSpec, reporter: Reporter, ending: "_Ending") -> tuple[Notice, Standing | None]:
    import torch  # only here: naming this module must not bring torch

    from stages.train.loop import train
    from stages.train.ranks import Ranks

    if spec.config.num_workers != 1:
        raise UserError(
            "several ranks need Ray",
            where="train.num_workers",
            expected="1 with `cluster.executor: in_process`",
            found=spec.config.num_workers,
            next_step="set `train.num_workers: 1` or `cluster.executor: ray`",
        )
    device = torch.device("cuda" if spec.config.use_gpu else "cpu")
    threads = torch.get_num_threads()
    try:
        with reporter.bar(spec.name, None, "samples") as bar:
            progress = BarProgress(bar, reporter, ending)
            return train(spec, Ranks(), device, progress), progress.last
    finally:
        torch.set_num_threads(threads)


def _rank(config: dict[str, Any]) -> int:
    """Ray Train's loop function: one rank; the notice on which it left."""
    import torch
    from ray.train.torch import get_device

    from stages.train.loop import train
    from stages.train.ranks import Ranks

    spec: TrainSpec = config["spec"]
    device = get_device() if spec.config.use_gpu else torch.device("cpu")
    ranks = Ranks.current()
    return int(train(spec, ranks, device, BoardProgress(config["board"], first=ranks.rank == 0)))


def _world_size(spec: TrainSpec, engine: Engine, reporter: Reporter) -> int:
    """How many ranks there is room for, in the end the fewest that may train.

    Raises:
        RunError: not even for those, within `cluster.wait_for_nodes_seconds`.
    """
    bundle, sizes = _rank_bundle(spec, engine), spec.config.world_sizes
    chosen = sizes[-1]
    for size in sizes[:-1]:
        # All ranks are worth a wait; what lies between all and the fewest only counts if it is there.
        wait = min(_ALL_SECONDS, engine.config.wait_for_nodes_seconds) if size == sizes[0] else 0.0
        try:
            engine.await_room([bundle] * size, spec.name, seconds=wait)
        except RunError:
            continue
        chosen = size
        break
    else:
        engine.await_room([bundle] * chosen, spec.name)
    if chosen < sizes[0]:
        reporter.say(f"{spec.name}: {chosen} of {sizes[0]} ranks, as there is no room for all")
    return chosen


def _rank_bundle(spec: TrainSpec, engine: Engine) -> dict[str, float]:
    """What one rank reserves."""
    config = spec.config
    if config.use_gpu:
        return engine.config.trainers.bundle(num_cpus=1, num_gpus=1)
    return engine.config.trainers.bundle(num_cpus=config.threads_per_rank)


def _fit(spec: TrainSpec, engine: Engine, board: Any, size: int) -> Notice:
    """Train by so many ranks until they leave; alone on this machine, nothing of theirs is open to the network."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from stages.train.rendezvous import FileRendezvous, NodeAddresses

    config = spec.config
    backend, bundle = "nccl" if config.use_gpu else "gloo", _rank_bundle(spec, engine)
    rank: Any = _rank
    # `launch` starts ranks again, on as many nodes as there are then, and says so.
    none: dict[str, Any] = {"max_failures": 0, "max_preemption_failures": 0, "controller_failure_limit": 0}
    with tempfile.TemporaryDirectory(prefix="gradsieve-train-") as scratch:
        trainer = TorchTrainer(
            rank,
            train_loop_config={"spec": replace(spec, config=config.with_ranks(size)), "board": board},
            scaling_config=ScalingConfig(num_workers=size, use_gpu=config.use_gpu, resources_per_worker=bundle),
            # Checkpoints are ours: a run of Ray's never resumes, so each has a new name and nothing worth keeping.
            run_config=RunConfig(
                name=f"gradsieve-{uuid.uuid4().hex}",
                storage_path=scratch,
                failure_config=FailureConfig(**none),
            ),
            torch_config=(
                FileRendezvous(backend=backend, folder=scratch) if engine.alone else NodeAddresses(backend=backend)
            ),
        )
        # In the main thread Ray Train would take Ctrl-C for itself, for good, and end the process with exit code 0.
        result: Any = translated(lambda: aside(trainer.fit, while_waiting=engine.check_embedded), spec)
        return Notice(result.return_value)
