"""What a training foretells and declares before it runs, and what it refuses then."""

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.stage import Size, StagePlan
from pipeline.storage import Storage
from stages.models.config import ModelConfig
from stages.train.config import MimicConfig, TrainConfig
from stages.train.order import Order, num_steps
from stages.train.plan import planned_steps
from stages.train.stage import TrainStage, costly
from tests.stages.train.test_stage import recipe

RATES = {
    "train_samples_per_second_per_gpu": 1000.0,
    "score_samples_per_second_per_gpu": 4000.0,
    "bytes_per_sample": 1e4,
    "samples_per_shard": 1e4,
}


def plan(config: TrainConfig, rows: int = 31, **inputs: Size) -> StagePlan:
    return TrainStage(config, pool_path="p").plan({"pool": Size(rows, 0), **inputs}, RATES)


@pytest.mark.parametrize(("epochs", "samples_seen"), [(1, None), (3, None), (None, 1), (None, 31), (None, 1000)])
@pytest.mark.parametrize("rows", [1, 12, 13, 31, 36])
def test_planned_steps_are_those_of_the_order(epochs: int | None, samples_seen: int | None, rows: int) -> None:
    order = Order(np.array([rows]), seed=0, lanes=2, window=4, batch_size=12)
    expected = num_steps(order, epochs=epochs, samples_seen=samples_seen)
    assert planned_steps(recipe(epochs=epochs, samples_seen=samples_seen), rows) == expected


def test_plan_of_the_paper_is_sane() -> None:
    paper = TrainConfig(model=ModelConfig(name="ViT-B-32"), samples_seen=12_800_000, num_workers=8, use_gpu=True)
    found = plan(paper, 12_800_000, reference=Size(0, 0))
    assert (found.steps, found.partitions) == (3125, 8)
    assert found.output.rows == 12_800_000
    assert found.output.bytes >= 12_800_000 * 25
    assert found.gpu_hours == pytest.approx(12_800_000 / 1000 / 3600)
    assert found.cpu_hours == 0
    assert (
        found.peak_task_bytes == 2 * 1024 * 8 // 8 * 1e4 + 1280 * 250
    )  # two windows of each of a rank's lanes; shards
    assert found.traffic.read_bytes > 12_800_000 * 1e4
    assert found.traffic.gets == 12_800_000 // 1024 + 1280, "a window is one request; shards end inside some"


def test_plan_without_reference_has_no_rows_and_scoring_has_its_own_rate() -> None:
    assert plan(recipe()).output.rows == 0
    train, score = (plan(recipe(method=method), 12_000, reference=Size(0, 0)) for method in ("mimic", "score"))
    assert train.cpu_hours == pytest.approx(4 * score.cpu_hours)
    assert train.output.rows == score.output.rows == 12_000


def test_plan_over_a_subset_counts_its_rows() -> None:
    assert plan(recipe(epochs=2), 1_000_000, subset=Size(120, 0)).steps == 20


def test_plan_over_an_unknown_number_of_samples_says_what_is_not_known() -> None:
    found = plan(recipe(use_gpu=True), 1_000_000, subset=Size(0, 0))
    assert found.steps is None
    assert found.gpu_hours == found.cpu_hours == 0
    assert "how many samples" in found.note


def test_plan_of_a_length_in_samples_is_known_whatever_the_subset() -> None:
    config = recipe(epochs=None, samples_seen=1200, use_gpu=True)
    found = plan(config, 1_000_000, subset=Size(0, 0))
    assert found.steps == 100
    assert found.gpu_hours == pytest.approx(1200 / 1000 / 3600)
    assert found.output.bytes == plan(config, 1_000_000, subset=Size(1200, 0)).output.bytes, "one pass, one checkpoint"


def test_external_inputs_are_the_shards_alone() -> None:
    external = TrainStage(recipe(), pool_path="p").external()
    assert set(external) == {"shards"}
    assert not external["shards"].identity, "the pool artifact vouches for the shards"


def test_uniform_training_of_a_model_without_default_parameter_is_allowed() -> None:
    residual = ModelConfig(name="RN50")
    TrainStage(recipe(model=residual), pool_path="p").preflight({}, Storage())
    with pytest.raises(UserError, match="default of the image tower"):
        TrainStage(recipe(model=residual, method="mimic"), pool_path="p").preflight({}, Storage())


def test_only_parameters_before_the_last_attention_cost() -> None:
    slow = "visual.transformer.resblocks.0.mlp.c_proj.weight"
    assert costly(recipe(mimic=MimicConfig(tower="both"))) == []
    (line,) = costly(recipe(mimic=MimicConfig(parameters=[slow, "visual.proj"])))
    assert slow in line
    assert "visual.proj" not in line


@pytest.mark.parametrize("temperature", [float("inf"), float("nan"), -1.0, 0.0])
def test_temperature_that_is_no_positive_number_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        recipe(temperature=temperature)
