"""Start the ranks: Ray Train's workers, or this process where there is one rank and no Ray is wanted."""

import logging
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.engine import Engine
from pipeline.errors import GradsieveError, RunError, UserError
from pipeline.progress import Bar, Reporter
from stages.train.spec import Standing, TrainSpec

_POLL_SECONDS = 0.5
_START_SECONDS = "900"  # ranks may wait for nodes to come up, or for other work to end


def launch(spec: TrainSpec, engine: Engine, reporter: Reporter) -> None:
    """Run a training to its end, going on from the last checkpoint when a rank is lost.

    Raises:
        GradsieveError: as raised in a rank, or RunError where ranks were lost too often.
    """
    if engine.config.executor == "in_process":
        _in_this_process(spec, reporter)
        return
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _START_SECONDS)
    engine.ensure_ray()
    with _progress_shown(spec, reporter) as board:
        for attempt in range(spec.config.max_retries + 1):
            try:
                _fit(spec, board)
                return
            except _RankLostError as lost:
                if attempt == spec.config.max_retries:
                    raise RunError(
                        "ranks were lost too often",
                        where=spec.name,
                        expected=f"at most {spec.config.max_retries} losses (train.max_retries)",
                        found=lost,
                        next_step="see why processes died (memory is the usual reason); the same command goes on",
                    ) from lost
                reporter.warn(f"{spec.name}: a rank was lost ({lost}); going on from the last checkpoint")


class _RankLostError(Exception):
    """A process died, or its node; nothing in its code was wrong."""


def _in_this_process(spec: TrainSpec, reporter: Reporter) -> None:
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
            train(spec, Ranks(), device, _BarProgress(bar, reporter))
    finally:
        torch.set_num_threads(threads)


class _BarProgress:
    """Shows progress directly."""

    def __init__(self, bar: Bar, reporter: Reporter) -> None:
        self._bar, self._reporter = bar, reporter

    def stand(self, standing: Standing) -> None:
        _show(self._bar, standing)

    def warn(self, text: str) -> None:
        self._reporter.warn(text)

    def committed(self, step: int, loss: float) -> None:
        del step, loss


class Board:
    """An actor that holds rank 0's progress until the driver asks for it."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._standing: Standing | None = None
        self._warnings: list[str] = []

    def stand(self, standing: Standing) -> None:
        """Replace what is known."""
        self._standing = standing

    def warn(self, text: str) -> None:
        """Keep a warning until it is read."""
        self._warnings.append(text)

    def read(self) -> tuple[Standing | None, list[str]]:
        """How far training is, and warnings since the last reading."""
        warnings, self._warnings = self._warnings, []
        return self._standing, warnings


class _BoardProgress:
    """Tells the board, at most some times a second, and never waits for it."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._last = 0.0

    def stand(self, standing: Standing) -> None:
        now = time.monotonic()
        if now - self._last >= _POLL_SECONDS or standing.samples == standing.total:
            self._last = now
            self._board.stand.remote(standing)

    def warn(self, text: str) -> None:
        import ray

        ray.get(self._board.warn.remote(text))  # a warning must arrive before its rank ends

    def committed(self, step: int, loss: float) -> None:
        import ray.train

        ray.train.report({"step": step, "loss": loss})  # for Ray's dashboard; nothing is uploaded


def _rank(config: dict[str, Any]) -> None:
    """Ray Train's loop function: one rank."""
    import torch
    from ray.train.torch import get_device

    from stages.train.loop import train
    from stages.train.ranks import Ranks

    spec: TrainSpec = config["spec"]
    device = get_device() if spec.config.use_gpu else torch.device("cpu")
    train(spec, Ranks.current(), device, _BoardProgress(config["board"]))


def _fit(spec: TrainSpec, board: Any) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    config = spec.config
    resources: dict[str, float] = {"CPU": 1} if config.use_gpu else {"CPU": config.threads_per_rank}
    with tempfile.TemporaryDirectory(prefix="gradsieve-train-") as scratch:
        trainer = TorchTrainer(
            _rank,
            train_loop_config={"spec": spec, "board": board},
            scaling_config=ScalingConfig(
                num_workers=config.num_workers, use_gpu=config.use_gpu, resources_per_worker=resources
            ),
            # Checkpoints are ours: a run of Ray's never resumes, so each has a new name and nothing worth keeping.
            run_config=RunConfig(
                name=f"gradsieve-{uuid.uuid4().hex}", storage_path=scratch, failure_config=FailureConfig(max_failures=0)
            ),
            torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        )
        _translated(trainer.fit, spec)


def _translated(fit: Callable[[], Any], spec: TrainSpec) -> None:
    """Raise what a rank raised as itself."""
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    try:
        fit()
    except TrainingFailedError as failed:
        causes = list(_causes(failed))
        ours = next((cause for cause in causes if isinstance(cause, GradsieveError)), None)
        if ours is not None:
            raise ours from None
        died = next((cause for cause in causes if isinstance(cause, RayError) or _is_loss(type(cause).__name__)), None)
        if died is not None:
            raise _RankLostError(str(died).splitlines()[0]) from failed
        raise RunError(
            "training failed",
            where=spec.name,
            found="; ".join(f"{type(cause).__name__}: {cause}" for cause in causes[:3]) or failed,
            next_step="this is a defect: please report it with the log",
        ) from failed


def _is_loss(name: str) -> bool:
    """Whether Ray Train calls a lost process or node by this name (its classes are not public)."""
    return "Health" in name or "Preemption" in name


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors of single ranks inside Ray's, and what caused them."""
    failures = getattr(error, "worker_failures", None)
    nested = list(failures.values()) if failures else []
    nested += [getattr(error, "controller_failure", None), getattr(error, "_base_exc", None), error.__cause__]
    if not failures:
        yield error
    for inner in nested:
        if isinstance(inner, BaseException):
            yield from _causes(inner)


@contextmanager
def _progress_shown(spec: TrainSpec, reporter: Reporter) -> Iterator[Any]:
    """An actor for ranks to report to, and a thread that shows what it knows."""
    import ray

    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # errors are told by us, once
    board: Any = ray.remote(num_cpus=0)(Board).remote()
    stop = threading.Event()
    with reporter.bar(spec.name, None, "samples") as bar:
        watcher = threading.Thread(target=_watch, args=(board, bar, reporter, stop), daemon=True)
        watcher.start()
        try:
            yield board
        finally:
            stop.set()
            watcher.join(timeout=10)
            ray.kill(board)


def _watch(board: Any, bar: Bar, reporter: Reporter, stop: threading.Event) -> None:
    import ray
    from ray.exceptions import RayError

    last = False
    while not last:
        last = stop.wait(_POLL_SECONDS)
        try:
            standing, warnings = ray.get(board.read.remote(), timeout=10)
        except RayError:  # the cluster is going away; the run's own error tells why
            return
        for text in warnings:
            reporter.warn(text)
        if standing is not None:
            _show(bar, standing)


def _show(bar: Bar, standing: Standing) -> None:
    effect = f", {standing.effective_share:.0%} in effect" if standing.effective_share < 1 else ""
    bar.set(standing.samples, f"loss {standing.loss:.3f}{effect}", total=standing.total)
