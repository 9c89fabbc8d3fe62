"""What Ray Train's errors become, and how often a lost rank is forgiven; no Ray is started."""

import io
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError
from ray.train import ControllerError, WorkerGroupError
from rich.console import Console

from pipeline.engine import ClusterConfig, Engine
from pipeline.errors import RunError, UserError
from pipeline.progress import Reporter
from stages.train import launch
from stages.train.spec import Standing, TrainSpec
from stages.train.stage import loader_spec
from tests.artifacts import context
from tests.stages.train.conftest import Lineage
from tests.stages.train.test_stage import recipe


@pytest.fixture
def spec(lineage: Lineage, tmp_path: Path) -> TrainSpec:
    config = recipe(num_workers=2, max_retries=2)
    loader = loader_spec(config, lineage.pool[0], lineage.pool[1], 0)
    return TrainSpec(config, 0, loader, context(tmp_path).output, "training/mimic")


def translated(spec: TrainSpec, error: Exception) -> None:
    def fit() -> None:
        raise error

    launch._translated(fit, spec)


@pytest.mark.parametrize("ours", [UserError("wrong weights", where="reference"), RunError("not finite", where="x")])
def test_own_error_of_any_rank_is_raised_as_itself(spec: TrainSpec, ours: Exception) -> None:
    """Other ranks fail because that one did: theirs are not what to tell."""
    with pytest.raises(type(ours)) as caught:
        translated(spec, WorkerGroupError("failed", {0: RuntimeError("connection closed by peer"), 1: ours}))
    assert caught.value is ours


def test_own_error_under_others_is_found(spec: TrainSpec) -> None:
    ours = UserError("no such shard", where="pool")
    outer = RuntimeError("in a task")
    outer.__cause__ = ours
    with pytest.raises(UserError) as caught:
        translated(spec, ControllerError(outer))
    assert caught.value is ours


@pytest.mark.parametrize("lost", [ActorDiedError(), NodeDiedError("node 3 is gone")])
def test_dead_process_or_node_is_a_lost_rank(spec: TrainSpec, lost: Exception) -> None:
    with pytest.raises(launch._RankLostError):
        translated(spec, WorkerGroupError("failed", {1: lost, 0: RuntimeError("connection closed by peer")}))


def test_own_error_beside_a_dead_rank_is_told_first(spec: TrainSpec) -> None:
    ours = RunError("loss or scores are not finite", where="step 3")
    with pytest.raises(RunError) as caught:
        translated(spec, WorkerGroupError("failed", {0: ActorDiedError(), 1: ours}))
    assert caught.value is ours


def test_any_other_error_is_told_as_a_defect_with_its_cause(spec: TrainSpec) -> None:
    with pytest.raises(RunError, match=r"(?s)training failed.*KeyError: 'logit_scale'.*please report it"):
        translated(spec, WorkerGroupError("failed", {0: KeyError("logit_scale")}))


def test_what_is_no_failure_of_training_passes_through(spec: TrainSpec) -> None:
    with pytest.raises(KeyboardInterrupt):
        translated(spec, KeyboardInterrupt())  # type: ignore[arg-type]
    launch._translated(lambda: None, spec)


def launched(monkeypatch: pytest.MonkeyPatch, spec: TrainSpec, outcomes: list[Exception | None]) -> tuple[int, str]:
    """Launch with `fit` ending in these ways, one after the other: (attempts, what was told)."""
    attempts: list[int] = []

    def fit(_: TrainSpec, board: Any) -> None:
        del board
        outcome = outcomes[len(attempts)]
        attempts.append(1)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(launch, "_fit", fit)
    monkeypatch.setattr(launch, "_progress_shown", lambda *_: nullcontext())
    monkeypatch.setattr(Engine, "ensure_ray", lambda self: None)
    told = io.StringIO()
    reporter = Reporter(Console(file=told, width=300))
    try:
        launch.launch(spec, Engine(ClusterConfig(), reporter), reporter)
    finally:
        told.write(f"\nattempts: {len(attempts)}")
        print(told.getvalue())  # for the caller that expects an error
    return len(attempts), told.getvalue()


LOST = launch._RankLostError("the actor died: out of memory")


def test_lost_ranks_are_forgiven_up_to_the_limit_and_told(spec: TrainSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts, told = launched(monkeypatch, spec, [LOST, LOST, None])
    assert attempts == 3
    assert "training/mimic: a rank was lost (the actor died: out of memory); going on" in told


def test_ranks_lost_too_often_stop_the_run(
    spec: TrainSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunError, match="at most 2 losses") as stopped:
        launched(monkeypatch, spec, [LOST, LOST, LOST])
    assert "attempts: 3" in capsys.readouterr().out
    assert "out of memory" in str(stopped.value)


def test_own_error_is_not_tried_again(
    spec: TrainSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError):
        launched(monkeypatch, spec, [UserError("wrong weights", where="x")])
    assert "attempts: 1" in capsys.readouterr().out


def test_board_gives_each_warning_once_and_the_last_standing() -> None:
    board = launch.Board()
    assert board.read() == (None, [])
    board.warn("one")
    board.stand(Standing(1, 10, 2.0, 1.0))
    board.stand(Standing(2, 10, 1.5, 0.4))
    board.warn("two")
    assert board.read() == (Standing(2, 10, 1.5, 0.4), ["one", "two"])
    assert board.read() == (Standing(2, 10, 1.5, 0.4), [])


@pytest.mark.parametrize(("share", "note"), [(1.0, "loss 2.500"), (0.42, "loss 2.500, 42% in effect")])
def test_standing_is_shown_with_what_is_in_effect(share: float, note: str) -> None:
    shown: list[Any] = []

    class Bar:
        def set(self, done: int, note: str = "", *, total: int | None = None) -> None:
            shown.append((done, note, total))

    launch._show(Bar(), Standing(24, 96, 2.5, share))  # type: ignore[arg-type]
    assert shown == [(24, note, 96)]
