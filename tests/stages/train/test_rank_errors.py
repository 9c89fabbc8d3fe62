"""What Ray Train's errors become; no Ray is started."""

from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, RayActorError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    InsufficientClusterResourcesError,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
)
from ray.train.v2.api.exceptions import PreemptionError
from ray.train.v2.api.preemption import PreemptionInfo

from pipeline import engine_errors
from pipeline.errors import RunError, UserError
from stages.train.rank_errors import NodeTakenError, NoRoomError, RankLostError, translated
from stages.train.spec import TrainSpec
from stages.train.stage import loader_spec
from tests.artifacts import context
from tests.stages.train.conftest import Lineage
from tests.stages.train.test_stage import recipe


@pytest.fixture
def spec(lineage: Lineage, tmp_path: Path) -> TrainSpec:
    config = recipe(num_workers=2, max_retries=2)
    loader = loader_spec(config, lineage.pool[0], lineage.pool[1], 0)
    return TrainSpec(config, 0, loader, context(tmp_path).output, "training/mimic")


def fail(spec: TrainSpec, error: Exception) -> None:
    def fit() -> None:
        raise error

    translated(fit, spec)


@pytest.mark.parametrize("ours", [UserError("wrong weights", where="reference"), RunError("not finite", where="x")])
def test_own_error_of_any_rank_is_raised_as_itself(spec: TrainSpec, ours: Exception) -> None:
    """Other ranks fail because that one did: theirs are not what to tell."""
    with pytest.raises(type(ours)) as caught:
        fail(spec, WorkerGroupError("failed", {0: RuntimeError("connection closed by peer"), 1: ours}))
    assert caught.value is ours


def test_own_error_under_others_is_found(spec: TrainSpec) -> None:
    ours = UserError("no such shard", where="pool")
    outer = RuntimeError("in a task")
    outer.__cause__ = ours
    with pytest.raises(UserError) as caught:
        fail(spec, ControllerError(outer))
    assert caught.value is ours


@pytest.mark.parametrize("lost", [ActorDiedError(), NodeDiedError("node 3 is gone")])
def test_dead_process_or_node_is_a_lost_rank(spec: TrainSpec, lost: Exception) -> None:
    with pytest.raises(RankLostError) as caught:
        fail(spec, WorkerGroupError("failed", {1: lost, 0: RuntimeError("connection closed by peer")}))
    assert not isinstance(caught.value, NodeTakenError)


def _failed_to_start() -> Exception:
    error = WorkerGroupStartupFailedError("At least one of the worker actors failed to initialize.")
    error.__cause__ = ActorDiedError()
    return error


@pytest.mark.parametrize(
    "missed",
    [
        WorkerGroupStartupTimeoutError(2),
        _failed_to_start(),
        InsufficientClusterResourcesError("Insufficient cluster resources to launch training workers.\nMore of it"),
    ],
)
def test_ranks_that_did_not_start_are_told_apart_from_lost_ones(spec: TrainSpec, missed: Exception) -> None:
    with pytest.raises(NoRoomError) as caught:
        fail(spec, ControllerError(missed))
    assert "\n" not in str(caught.value)
    assert "environment variable" not in str(caught.value)


GLOO = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [10.0.0.7]:34488: reset")


def test_rank_whose_peer_is_gone_before_ray_knows_is_a_lost_one(spec: TrainSpec) -> None:
    with pytest.raises(RankLostError, match="Read error"):
        fail(spec, WorkerGroupError("failed", {0: GLOO}))


def test_defect_in_a_rank_is_not_hidden_by_the_broken_connections_of_the_others(spec: TrainSpec) -> None:
    with pytest.raises(RunError, match=r"(?s)training failed.*KeyError"):
        fail(spec, WorkerGroupError("failed", {0: GLOO, 1: KeyError("logit_scale"), 2: GLOO}))


@pytest.mark.parametrize(
    "taken",
    [
        PreemptionError(PreemptionInfo(None, {"node": [1]}), drain_timed_out=True),
        WorkerGroupError("failed", {0: RuntimeError("closed by peer"), 1: RayActorError(preempted=True)}),
    ],
)
def test_rank_that_went_with_its_drained_node_is_told_apart(spec: TrainSpec, taken: Exception) -> None:
    with pytest.raises(NodeTakenError):
        fail(spec, taken)


def test_own_error_beside_a_dead_rank_is_told_first(spec: TrainSpec) -> None:
    ours = RunError("loss or scores are not finite", where="step 3")
    with pytest.raises(RunError) as caught:
        fail(spec, WorkerGroupError("failed", {0: ActorDiedError(), 1: ours}))
    assert caught.value is ours


def test_any_other_error_is_told_as_a_defect_with_its_cause(spec: TrainSpec) -> None:
    with pytest.raises(RunError, match=r"(?s)training failed.*KeyError: 'logit_scale'.*please report it"):
        fail(spec, WorkerGroupError("failed", {0: KeyError("logit_scale")}))


@pytest.mark.parametrize(("lives", "told"), [(True, RankLostError), (False, RunError)])
def test_dead_controller_is_a_lost_rank_while_the_cluster_lives(
    spec: TrainSpec, lives: bool, told: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_errors, "_cluster_lives", lambda: lives)
    with pytest.raises(told):
        fail(spec, ActorDiedError())


def test_what_is_no_failure_of_training_passes_through(spec: TrainSpec) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail(spec, KeyboardInterrupt())  # type: ignore[arg-type]
    assert translated(lambda: 3, spec) == 3
