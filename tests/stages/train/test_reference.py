"""The reference stage: sources, the check and its verdict, what is refused before work."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from pipeline.artifact import Artifact
from pipeline.errors import RunError, UserError
from pipeline.stage import Size
from pipeline.storage import Storage
from stages.models.weights import load_model
from stages.train import check
from stages.train.config import MimicConfig, TrainConfig
from stages.train.probe import LossDrops
from stages.train.reference import ReferenceStage, is_file
from stages.train.reference_config import PhaseConfig, ReferenceConfig, phase_train_config, placed_reference
from stages.train.task import Batch, ContrastiveTask, Encoders
from tests.artifacts import commit, context, listed
from tests.stages.train.conftest import Lineage
from tests.stages.train.test_stage import recipe, reference_config
from tests.stages.train.tiny_pool import caption_of, colour_of


def run(
    root: Path, lineage: Lineage, config: ReferenceConfig, train: TrainConfig, **inputs: Artifact
) -> tuple[Artifact, str]:
    """(reference, what the user was told)."""
    stage = ReferenceStage(config, pool_path=lineage.pool[1], train=train)
    inputs = {"pool": lineage.pool[0], **inputs}
    made = context(root, inputs=inputs, external={"shards": listed(lineage.pool[1])})
    told = io.StringIO()
    made.reporter.console = Console(file=told, width=400)
    return commit(root, "reference", stage.run(made)), told.getvalue()


MIMIC = recipe(method="mimic")


def own_losses(model: Any, numbers: list[int]) -> np.ndarray:
    """l_i of one batch, by the task alone, in the order given."""
    from stages.models.build import build_tokenizer

    pixels = np.stack([np.broadcast_to(np.uint8(colour_of(n))[:, None, None], (3, 16, 16)) for n in numbers])
    tokens = build_tokenizer(recipe().model)([caption_of(n) for n in numbers])
    batch = Batch(torch.from_numpy(pixels.copy()), tokens, torch.ones(len(numbers), dtype=torch.bool))
    task = ContrastiveTask()
    with torch.no_grad():
        outputs = task.outputs(Encoders(model.eval()), batch)
        return np.asarray(task.losses(batch, outputs, outputs, task.scalars(model)))


def test_probe_holds_losses_of_student_and_reference_batch_by_batch(lineage: Lineage) -> None:
    (path,) = [file.path for file in lineage.reference.files("probe", ".parquet")]
    table = lineage.reference.read_table(path)
    student, _ = load_model(lineage.base)
    reference, _ = load_model(lineage.tuned)
    for number in range(2):
        rows = table.filter(np.asarray(table["batch"]) == number)
        samples = rows["uid_lo"].to_pylist()
        assert len(samples) == 12
        for column, model in (("loss_theta_0", student), ("loss_theta_ref", reference)):
            np.testing.assert_allclose(rows[column].to_numpy(), own_losses(model, samples), rtol=1e-4)


def test_check_tells_mean_losses_and_the_correlation_of_its_probe(lineage: Lineage) -> None:
    found = lineage.reference.read_json("check.json")
    (path,) = [file.path for file in lineage.reference.files("probe", ".parquet")]
    table = lineage.reference.read_table(path)
    assert found["theta_0_loss"] == pytest.approx(table["loss_theta_0"].to_numpy().mean(), abs=1e-6)
    assert found["theta_ref_loss"] == pytest.approx(table["loss_theta_ref"].to_numpy().mean(), abs=1e-6)
    assert found["samples"] == table.num_rows == len(LossDrops.read(table).by_uid)
    assert lineage.reference.summary == {"source": "train", "parameters": MIMIC_NAMES}


MIMIC_NAMES = ["visual.transformer.resblocks.1.mlp.c_proj.weight"]


def test_check_does_not_depend_on_the_pieces_of_training(lineage: Lineage, tmp_path: Path) -> None:
    again, _ = run(
        tmp_path, lineage, reference_config(), recipe(method="mimic", accumulation=3), init=lineage.base,
        weights=lineage.tuned,
    )  # fmt: skip
    assert again.read_json("check.json") == lineage.reference.read_json("check.json")


def test_pool_smaller_than_the_check_is_warned_of(lineage: Lineage, tmp_path: Path) -> None:
    config = reference_config(check_samples=1024)
    made, told = run(tmp_path, lineage, config, MIMIC, init=lineage.base, weights=lineage.tuned)
    assert "the pool has 31 samples to check it on, fewer than the 1,024 of `reference.check_samples`" in told
    assert made.read_json("check.json")["samples"] == 31


def test_verdict_is_said_and_an_uninformative_one_warned_of(
    lineage: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"init": lineage.base, "weights": lineage.tuned}
    monkeypatch.setattr(check, "INFORMATIVE", -1.0)
    _, told = run(tmp_path / "a", lineage, reference_config(on_uninformative="stop"), MIMIC, **inputs)
    assert "reference: informative, rank correlation of score and loss drop" in told
    assert "warning" not in told
    monkeypatch.setattr(check, "INFORMATIVE", 2.0)
    _, told = run(tmp_path / "b", lineage, reference_config(), MIMIC, **inputs)
    assert "warning: the reference is" in told
    assert "reference.tune on verified samples" in told
    with pytest.raises(RunError, match="reference is") as stopped:
        run(tmp_path / "c", lineage, reference_config(on_uninformative="stop"), MIMIC, **inputs)
    assert stopped.value.exit_code == 1


def test_reference_unlike_the_base_needs_no_lineage_input(lineage: Lineage, tmp_path: Path) -> None:
    """Without a base the student starts at the random weights of the seed."""
    made, _ = run(tmp_path, lineage, reference_config(), MIMIC, weights=lineage.tuned)
    other = lineage.reference.read_json("check.json")
    assert made.read_json("check.json")["theta_0_loss"] != other["theta_0_loss"]
    assert made.read_json("check.json")["theta_ref_loss"] == other["theta_ref_loss"]


def test_trained_source_without_a_training_is_refused(lineage: Lineage, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training made a reference"):
        run(tmp_path, lineage, reference_config(), MIMIC)


def test_weights_of_another_architecture_are_refused_in_work_too(lineage: Lineage, tmp_path: Path) -> None:
    wide = MIMIC.model_copy(update={"model": MIMIC.model.model_copy(update={"embed_dim": 12})})
    with pytest.raises(UserError, match=r"(?s)do not fit.*\[8, 12\]"):
        run(tmp_path, lineage, reference_config(), wide, weights=lineage.tuned)


def test_threads_come_back_even_if_the_check_fails(lineage: Lineage, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    several = recipe(method="mimic", threads_per_rank=before + 2)
    with pytest.raises(UserError, match="length zero"):
        run(tmp_path, lineage, reference_config(), several, init=lineage.base, weights=lineage.base)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("train", False),
        ("openai", False),
        ("laion2b_s34b_b79k", False),
        ("hf-hub:someone/model", False),
        ("weights.pt", True),
        ("weights.safetensors", True),
        ("dir/model", True),
        ("./model", True),
        ("s3://bucket/key", True),
    ],
)
def test_source_names_a_file_or_not(source: str, expected: bool) -> None:
    assert is_file(source) is expected
    config = ReferenceConfig.model_construct(source=source)
    stage = ReferenceStage(config, pool_path="pool", train=MIMIC)
    assert ("weights" in stage.external()) is expected
    assert not stage.external()["shards"].identity, "the pool artifact vouches for the shards"


def test_source_that_is_not_there_is_refused_before_work(tmp_path: Path) -> None:
    stage = ReferenceStage(ReferenceConfig(source=str(tmp_path / "none.pt")), pool_path="pool", train=MIMIC)
    with pytest.raises(UserError, match="no weights there"):
        stage.preflight({}, Storage())


def test_source_with_data_parallel_names_is_read(lineage: Lineage, tmp_path: Path) -> None:
    state = load_model(lineage.tuned)[0].state_dict()
    path = tmp_path / "epoch_3.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    config = ReferenceConfig(source=str(path), on_uninformative="warn", check_samples=24)
    ReferenceStage(config, pool_path="pool", train=MIMIC).preflight({}, Storage())
    made, _ = run(tmp_path / "r", lineage, config, MIMIC, init=lineage.base)
    assert made.read_json("check.json") == lineage.reference.read_json("check.json")
    name = "model/open_clip_model.safetensors"
    assert made.read_bytes(name) == lineage.reference.read_bytes(name)


def test_parameters_are_checked_before_work_even_for_a_trained_reference() -> None:
    train = recipe(method="mimic", mimic=MimicConfig(parameters=["nonsense"]))
    with pytest.raises(UserError, match="cannot be mimicked"):
        ReferenceStage(reference_config(), pool_path="pool", train=train).preflight({}, Storage())


def test_plan_counts_three_passes_over_whole_batches() -> None:
    stage = ReferenceStage(reference_config(check_samples=1024), pool_path="p", train=recipe(method="mimic"))
    plan = stage.plan({"pool": Size(10, 0), "weights": Size(0, 777)}, {"score_samples_per_second_per_gpu": 100.0})
    assert plan.output == Size(0, 777)
    assert (plan.gpu_hours, plan.note) == (0.0, "from train")
    assert plan.cpu_hours == pytest.approx(3 * 1032 / 100 / 3600)  # 86 batches of 12
    gpu = ReferenceStage(reference_config(), pool_path="p", train=recipe(method="mimic", use_gpu=True))
    rates = {"score_samples_per_second_per_gpu": 100.0}
    assert gpu.plan({}, rates).gpu_hours > 0
    assert gpu.plan({}, rates).cpu_hours == 0


def test_placed_reference_changes_with_what_the_check_depends_on() -> None:
    config = reference_config()
    placed = placed_reference(config, MIMIC)
    assert isinstance(placed, ReferenceConfig)
    assert placed.tune == config.tune
    same = placed_reference(config, MIMIC.model_copy(update={"loader_threads": 7}))
    other = placed_reference(config, recipe(method="mimic", mimic=MimicConfig(tower="text")))
    assert placed.identity() == same.identity(), "placement is no part of what is computed"
    assert placed.identity() != other.identity()


def test_phase_refuses_what_its_own_batch_cannot_do() -> None:
    with pytest.raises(ValueError, match="multiple of lanes"):
        phase_train_config(MIMIC, PhaseConfig(epochs=1, batch_size=13))
