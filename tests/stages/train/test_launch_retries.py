"""How often ranks are started again, after what; no Ray is started."""

import io
import os
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.errors import RunError, UserError
from pipeline.progress import Reporter
from pipeline.termination import Terminated, end_at_sigterm
from stages.train import launch
from stages.train.checkpoint import CheckpointStore
from stages.train.notice import Notice
from stages.train.rank_errors import NodeTakenError, NoRoomError, RankLostError
from stages.train.spec import TrainSpec
from tests.stages.train.test_rank_errors import spec

__all__ = ["spec"]


def launched(monkeypatch: pytest.MonkeyPatch, spec: TrainSpec, outcomes: list[Exception | Notice]) -> tuple[int, str]:
    """Launch with `fit` ending in these ways, one after the other: (attempts, what was told)."""
    attempts: list[int] = []

    def fit(_: TrainSpec, engine: Engine, board: Any, size: int) -> Notice:
        del engine, board, size
        outcome = outcomes[len(attempts)]
        attempts.append(1)
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is Notice.RUN_ENDS:
            os.kill(os.getpid(), signal.SIGTERM)
        return outcome

    monkeypatch.setattr(launch, "_fit", fit)
    monkeypatch.setattr(launch, "progress_shown", lambda *_: nullcontext())
    monkeypatch.setattr(launch, "last_standing", lambda _: None)
    monkeypatch.setattr(Engine, "ensure_ray", lambda self: None)
    told = io.StringIO()
    reporter = Reporter(Console(file=told, width=300))
    try:
        launch.launch(spec, Engine(ClusterConfig(), reporter), reporter)
    finally:
        told.write(f"\nattempts: {len(attempts)}")
        print(told.getvalue())  # for the caller that expects an error
    return len(attempts), told.getvalue()


LOST = RankLostError("the actor died: out of memory")


def test_lost_ranks_are_forgiven_up_to_the_limit_and_told(spec: TrainSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts, told = launched(monkeypatch, spec, [LOST, LOST, Notice.NONE])
    assert attempts == 3
    assert "training/mimic: a rank was lost (the actor died: out of memory); starting again" in told
    assert "from step 0" in told


def test_nodes_that_leave_are_no_losses(spec: TrainSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(spec.output)
    store.commit(step=7, epoch=0, batch=7, world_size=2, files=[], ledger=[])
    taken = NodeTakenError("preempted ranks 1")
    many: list[Exception | Notice] = [LOST, Notice.NODE_LEAVES, taken, Notice.NODE_LEAVES, taken, LOST, Notice.NONE]
    attempts, told = launched(monkeypatch, spec, many)
    assert attempts == 7
    assert "training/mimic: a node is about to leave; starting again on the nodes that there are, from step 7" in told
    assert "training/mimic: a node was taken away (preempted ranks 1); starting again" in told


def test_ranks_that_did_not_start_are_started_again_after_a_while_as_often_as_lost_ones(
    spec: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_SETTLE_SECONDS", 0.2)
    missed = NoRoomError("timed out waiting for 2 workers")
    begun = time.monotonic()
    attempts, told = launched(monkeypatch, spec, [missed, LOST, Notice.NONE])
    assert attempts == 3
    assert time.monotonic() - begun >= 0.2
    assert "training/mimic: ranks did not start (timed out waiting for 2 workers); starting again" in told
    with pytest.raises(RunError, match="at most 2 losses"):
        launched(monkeypatch, spec, [missed] * 3)


def test_placement_is_waited_for_as_long_as_nodes_are_and_not_long_where_fewer_ranks_may_train(spec: TrainSpec) -> None:
    engine = Engine(ClusterConfig(wait_for_nodes_seconds=900.0), Reporter())
    assert launch._placement_patience(spec, engine) == 900.0
    elastic = replace(spec, config=spec.config.model_copy(update={"min_workers": 1}))
    assert launch._placement_patience(elastic, engine) == 60.0


@pytest.mark.parametrize("last", [Notice.RUN_ENDS, LOST, Notice.NODE_LEAVES])
def test_run_that_was_told_to_end_starts_no_rank_again(
    spec: TrainSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], last: Exception | Notice
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    end_at_sigterm()
    monkeypatch.setattr(launch, "_going_on", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with pytest.raises(Terminated):
            launched(monkeypatch, spec, [last, Notice.NONE])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "attempts: 1" in capsys.readouterr().out


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
