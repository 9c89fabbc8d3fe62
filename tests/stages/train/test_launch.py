"""Ranks under Ray Train: same bytes as in this process, lost ranks, errors and warnings that arrive."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifact import Artifact
from pipeline.engine import Engine
from pipeline.errors import RunError, UserError
from pipeline.meter import Budget, LimitReachedError, Meter
from pipeline.termination import Terminated, end_at_sigterm
from stages.train import launch, loop
from stages.train.board import BoardProgress
from stages.train.checkpoint import CheckpointStore
from stages.train.config import TrainConfig
from stages.train.notice import Listener, Notice
from stages.train.stage import TrainStage
from tests.artifacts import context, listed, run_stage
from tests.stages.train.test_stage import recipe
from tests.stages.train.tiny_pool import make_pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, str]:
    return make_pool(tmp_path_factory.mktemp("pool"), [11, 7, 13])


def train(root: Path, pool: tuple[Artifact, str], config: TrainConfig, engine: Engine | None = None) -> Artifact:
    stage = TrainStage(config, pool_path=pool[1])
    external = {"shards": listed(pool[1])}
    return run_stage(stage, root, "training/x", inputs={"pool": pool[0]}, external=external, engine=engine)


class DieOnce:
    """A training whose rank 1 kills its own process at a step, the first time."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __call__(self, spec: Any, ranks: Any, device: Any, progress: Any) -> Notice:
        whole = loop._Training._one_step

        def dying(training: Any, step: int, local: Any) -> Any:
            if step == 4 and ranks.rank == 1 and not os.path.exists(self.marker):
                Path(self.marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(training, step, local)

        loop._Training._one_step = dying  # type: ignore[method-assign]
        try:
            return loop.train(spec, ranks, device, progress)
        finally:
            loop._Training._one_step = whole  # type: ignore[method-assign]


class WaitForTheEnd:
    """A training whose first rank does not pass a step before the run was told to end."""

    def __call__(self, spec: Any, ranks: Any, device: Any, progress: Any) -> Notice:
        import ray

        whole = loop._Training._one_step

        def waiting(training: Any, step: int, local: Any) -> Any:
            while step == 4 and ranks.rank == 0 and not ray.get(progress._board.ending.remote()):
                time.sleep(0.05)
            return whole(training, step, local)

        loop._Training._one_step = waiting  # type: ignore[method-assign]
        try:
            return loop.train(spec, ranks, device, progress)
        finally:
            loop._Training._one_step = whole  # type: ignore[method-assign]


TWO_RANKS: dict[str, Any] = {"num_workers": 2, "epochs": 4}


@pytest.fixture(scope="module")
def straight(ray_engine: Engine, pool: tuple[Artifact, str], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Of two ranks, undisturbed."""
    return train(tmp_path_factory.mktemp("straight"), pool, recipe(**TWO_RANKS), ray_engine)


@pytest.mark.ray
def test_two_ranks_one_lost_end_in_the_bytes_of_an_undisturbed_run(
    ray_engine: Engine,
    pool: tuple[Artifact, str],
    straight: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_rank", _rank_with(DieOnce(tmp_path / "died")))
    disturbed = train(tmp_path, pool, recipe(**TWO_RANKS), ray_engine)
    assert (tmp_path / "died").exists()
    assert disturbed.manifest.content == straight.manifest.content


@pytest.fixture
def sigterm_ends() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    end_at_sigterm()
    yield
    signal.signal(signal.SIGTERM, before)


class TellToEnd:
    """A progress bar that sends SIGTERM once a number of samples is done."""

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def set(self, done: int, note: str = "", *, total: int | None = None) -> None:
        if done >= self._samples:
            self._samples = 1 << 60
            os.kill(os.getpid(), signal.SIGTERM)


def told_to_end(root: Path, pool: tuple[Artifact, str], config: TrainConfig, bar: TellToEnd, **more: Any) -> int:
    """Train until the bar says so; steps of the checkpoint that was taken then."""
    made = context(root, inputs={"pool": pool[0]}, external={"shards": listed(pool[1])}, **more)
    made.reporter.bar = lambda *_: nullcontext(bar)  # type: ignore[method-assign, assignment]
    with pytest.raises(Terminated):
        TrainStage(config, pool_path=pool[1]).run(made)
    last = CheckpointStore(made.output).latest()
    assert last is not None
    return last.step


@pytest.mark.ray
@pytest.mark.usefixtures("sigterm_ends")
def test_two_ranks_told_to_end_take_a_checkpoint_and_go_on_from_it(
    ray_engine: Engine,
    pool: tuple[Artifact, str],
    straight: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(launch, "_rank", _rank_with(WaitForTheEnd()))
        # At the first word of progress: ranks speak at most twice a second, and may never speak of a later step.
        step = told_to_end(tmp_path, pool, recipe(**TWO_RANKS), TellToEnd(1), engine=ray_engine)
    assert 1 <= step < 12
    resumed = train(tmp_path, pool, recipe(**TWO_RANKS), ray_engine)
    assert resumed.manifest.content == straight.manifest.content


@pytest.mark.usefixtures("sigterm_ends")
def test_training_in_this_process_told_to_end_takes_a_checkpoint_after_that_step(
    pool: tuple[Artifact, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "Listener", partial(Listener, seconds=0))
    assert told_to_end(tmp_path / "told", pool, recipe(epochs=2), TellToEnd(24)) == 2
    resumed, whole = (train(tmp_path / name, pool, recipe(epochs=2)) for name in ("told", "whole"))
    assert resumed.manifest.content == whole.manifest.content


class UseUp:
    """A progress bar; once a number of samples is done, the hours that a run may take have passed."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def set(self, done: int, note: str = "", *, total: int | None = None) -> None:
        if done >= self._samples:
            self.now = 7200.0


def used_up(root: Path, pool: tuple[Artifact, str], config: TrainConfig, samples: int, **more: Any) -> int:
    """Train until two hours have passed and one was allowed; steps of the checkpoint that was taken then."""
    bar = UseUp(samples)
    made = context(root, inputs={"pool": pool[0]}, external={"shards": listed(pool[1])}, **more)
    made.reporter.bar = lambda *_: nullcontext(bar)  # type: ignore[method-assign, assignment]
    before, made.engine.meter = made.engine.meter, Meter(Budget(hours=1.0), clock=bar.clock)
    try:
        with pytest.raises(LimitReachedError, match=r"limits\.hours"):
            TrainStage(config, pool_path=pool[1]).run(made)
        assert made.engine.meter.usage().cpu_hours == 2.0 * config.num_workers
    finally:
        made.engine.meter = before
    last = CheckpointStore(made.output).latest()
    assert last is not None
    return last.step


def test_training_in_this_process_that_reaches_a_limit_takes_a_checkpoint_and_goes_on_from_it(
    pool: tuple[Artifact, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "Listener", partial(Listener, seconds=0))
    assert used_up(tmp_path / "limited", pool, recipe(epochs=2), 24) == 2
    resumed, whole = (train(tmp_path / name, pool, recipe(epochs=2)) for name in ("limited", "whole"))
    assert resumed.manifest.content == whole.manifest.content


@pytest.mark.ray
def test_two_ranks_whose_run_reaches_a_limit_take_a_checkpoint_and_go_on_from_it(
    ray_engine: Engine,
    pool: tuple[Artifact, str],
    straight: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(launch, "_rank", _rank_with(WaitForTheEnd()))
        # At the first word of progress, as above: rank 0 may be held at a step of which it has not spoken.
        step = used_up(tmp_path, pool, recipe(**TWO_RANKS), 1, engine=ray_engine)
    assert 1 <= step < 12
    resumed = train(tmp_path, pool, recipe(**TWO_RANKS), ray_engine)
    assert resumed.manifest.content == straight.manifest.content


def _rank_with(function: Any) -> Any:
    def rank(config: dict[str, Any]) -> int:
        import torch

        from stages.train.ranks import Ranks

        ranks = Ranks.current()
        progress = BoardProgress(config["board"], first=ranks.rank == 0)
        return int(function(config["spec"], ranks, torch.device("cpu"), progress))

    return rank


@pytest.mark.ray
def test_one_rank_under_ray_equals_this_process(ray_engine: Engine, pool: tuple[Artifact, str], tmp_path: Path) -> None:
    config = recipe()
    here, there = train(tmp_path / "here", pool, config), train(tmp_path / "there", pool, config, ray_engine)
    assert here.manifest.content == there.manifest.content


@pytest.mark.ray
def test_error_of_a_rank_arrives_as_itself(ray_engine: Engine, pool: tuple[Artifact, str], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"(?s)not finite.*step \d+"):
        train(tmp_path, pool, recipe(num_workers=2, learning_rate=1e30, warmup=0, epochs=3), ray_engine)


def test_several_ranks_in_process_are_refused(pool: tuple[Artifact, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="several ranks need Ray"):
        train(tmp_path, pool, recipe(num_workers=2))


def test_progress_reaches_the_reporter(pool: tuple[Artifact, str], tmp_path: Path) -> None:
    shown: list[tuple[int, str, int | None]] = []
    made = context(tmp_path, inputs={"pool": pool[0]}, external={"shards": listed(pool[1])})

    class Bar:
        def set(self, done: int, note: str = "", *, total: int | None = None) -> None:
            shown.append((done, note, total))

    made.reporter.bar = lambda *_: nullcontext(Bar())  # type: ignore[method-assign, assignment]
    TrainStage(recipe(), pool_path=pool[1]).run(made)
    assert [(done, total) for done, _, total in shown] == [(12, 36), (24, 36), (36, 36)]
    assert all(note.startswith("loss ") for _, note, _ in shown)
    assert np.isfinite(float(shown[-1][1].split()[1].rstrip(",")))
