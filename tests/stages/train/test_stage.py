"""Training and reference stages on a tiny pool, in this process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.artifact import Artifact
from pipeline.errors import RunError, UserError
from pipeline.rates import RatesConfig
from pipeline.stage import Size
from pipeline.storage import Storage
from stages.models.config import ModelConfig
from stages.models.weights import load_model, load_state
from stages.train.config import MimicConfig, TrainConfig
from stages.train.reference import ReferenceStage
from stages.train.reference_config import ReferenceConfig
from stages.train.stage import TrainStage
from tests.artifacts import listed, run_stage
from tests.stages.train.tiny_pool import make_pool, uid_of
from tests.stages.train.trusted_subset import trusted_subset

COUNTS = [11, 7, 13]  # 31 samples: three batches of 12, five fillers


def recipe(**changes: Any) -> TrainConfig:
    model = ModelConfig(
        embed_dim=8,
        vision_cfg={"width": 16, "head_width": 8, "layers": 2, "image_size": 16, "patch_size": 8},
        text_cfg={"width": 8, "heads": 2, "layers": 2, "context_length": 12},
    )
    values: dict[str, Any] = {
        "model": model, "method": "uniform", "epochs": 1, "batch_size": 12, "lanes": 2, "window": 4,
        "learning_rate": 1e-3, "warmup": 2, "precision": "fp32",
    }  # fmt: skip
    return TrainConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, str]:
    return make_pool(tmp_path_factory.mktemp("pool"), COUNTS)


@pytest.fixture(scope="module")
def trusted(pool: tuple[Artifact, str], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return trusted_subset(tmp_path_factory.mktemp("trusted"), pool[0], range(0, 31, 2))


def train(
    root: Path, pool: tuple[Artifact, str], config: TrainConfig, name: str = "training/x", **inputs: Any
) -> Artifact:
    stage = TrainStage(config, pool_path=pool[1], on_uninformative="warn")
    return run_stage(stage, root, name, inputs={"pool": pool[0], **inputs}, external={"shards": listed(pool[1])})


@pytest.fixture(scope="module")
def base(pool: tuple[Artifact, str], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return train(tmp_path_factory.mktemp("base"), pool, recipe(epochs=2), "training/base")


@pytest.fixture(scope="module")
def tuned(
    pool: tuple[Artifact, str], base: Artifact, trusted: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    root = tmp_path_factory.mktemp("tuned")
    return train(root, pool, recipe(epochs=3), "training/tuned", init=base, subset=trusted)


def refer(
    root: Path, pool: tuple[Artifact, str], config: ReferenceConfig, train: TrainConfig, **inputs: Any
) -> Artifact:
    stage = ReferenceStage(config, pool_path=pool[1], train=train)
    external = {"shards": listed(pool[1])}
    return run_stage(stage, root, "reference", inputs={"pool": pool[0], **inputs}, external=external)


def reference_config(**changes: Any) -> ReferenceConfig:
    values = {"tune": {"epochs": 1}, "trusted": "trusted.npy", "on_uninformative": "warn", "check_samples": 24}
    return ReferenceConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def reference(
    pool: tuple[Artifact, str], base: Artifact, tuned: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    root = tmp_path_factory.mktemp("reference")
    return refer(root, pool, reference_config(), recipe(method="mimic"), init=base, weights=tuned)


@pytest.fixture(scope="module")
def mimic(
    pool: tuple[Artifact, str], base: Artifact, reference: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    root = tmp_path_factory.mktemp("mimic")
    return train(root, pool, recipe(method="mimic", epochs=2), "training/mimic", init=base, reference=reference)


def test_base_has_a_model_that_open_clip_loads(base: Artifact) -> None:
    model = open_clip.create_model(f"local-dir:{base.root}/model")
    ours, config = load_model(base)
    assert config == recipe().model
    for name, tensor in ours.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_base_records_losses_without_scores_or_ledger(base: Artifact) -> None:
    history = base.read_table("history.parquet").to_pydict()
    assert history["step"] == list(range(6))
    assert history["epoch"] == [0, 0, 0, 1, 1, 1]
    assert history["score_q50"] == [None] * 6
    assert all(np.isfinite(history["loss"]))
    assert not base.files("ledger/")
    assert base.summary["samples_seen"] == 62
    assert base.summary["init"] == "random"


def test_epoch_models_are_kept_and_the_last_one_is_the_model(base: Artifact) -> None:
    assert [file.path for file in base.files("models/")] == [
        "models/epoch-000.safetensors",
        "models/epoch-001.safetensors",
    ]
    last = base.read_bytes("models/epoch-001.safetensors")
    assert last == base.read_bytes("model/open_clip_model.safetensors")
    assert base.read_bytes("models/epoch-000.safetensors") != last


def test_tuned_starts_at_base_and_sees_the_trusted_alone(tuned: Artifact) -> None:
    assert tuned.summary["samples"] == 16
    assert tuned.summary["init"] == "training/base"
    assert tuned.summary["steps"] == 6  # ceil(16 / 12) a pass


def test_reference_check_covers_the_probe(reference: Artifact, tuned: Artifact) -> None:
    found = reference.read_json("check.json")
    assert found["samples"] == 24
    assert found["verdict"] in ("informative", "uninformative", "inverted")
    assert -1 <= found["spearman"] <= 1
    name = "model/open_clip_model.safetensors"
    mine, theirs = (load_state(artifact.read_bytes(name)) for artifact in (reference, tuned))
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_mimic_ledger_has_each_sample_once_an_epoch(mimic: Artifact) -> None:
    rows = [row for table in mimic.tables("ledger/") for row in table.to_pylist()]
    assert sorted((row["uid_hi"], row["uid_lo"], row["visit"]) for row in rows) == sorted(
        (*uid_of(number), visit) for number in range(31) for visit in range(2)
    )
    by_step: dict[int, float] = {}
    for row in rows:
        by_step[row["step"]] = by_step.get(row["step"], 0.0) + row["weight"]
    assert by_step == pytest.approx(dict.fromkeys(range(6), 1.0), abs=1e-6)


def test_mimic_checks_the_reference_at_each_checkpoint(mimic: Artifact) -> None:
    checks = mimic.read_json("checks.json")
    assert [(check["step"], check["epoch"], check["samples"]) for check in checks] == [(3, 0, 24), (6, 1, 24)]


def test_mimic_names_what_it_mimicked(mimic: Artifact) -> None:
    assert mimic.summary["mimicked"] == ["visual.transformer.resblocks.1.mlp.c_proj.weight"]


def test_interrupted_run_goes_on_and_ends_in_the_same_bytes(
    pool: tuple[Artifact, str],
    base: Artifact,
    reference: Artifact,
    mimic: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from stages.train import loop

    class Interrupted(Exception):
        pass

    whole = loop._Training._one_step
    done = []

    def stopping(self: Any, step: int, local: Any) -> Any:
        if step == 4 and not done:
            done.append(step)
            raise Interrupted
        return whole(self, step, local)

    monkeypatch.setattr(loop._Training, "_one_step", stopping)
    config = recipe(method="mimic", epochs=2)
    with pytest.raises(Interrupted):
        train(tmp_path, pool, config, init=base, reference=reference)
    again = train(tmp_path, pool, config, "training/mimic", init=base, reference=reference)
    assert again.manifest.content == mimic.manifest.content


def test_score_method_is_one_pass_with_frozen_weights(
    pool: tuple[Artifact, str], base: Artifact, reference: Artifact, tmp_path: Path
) -> None:
    scored = train(tmp_path, pool, recipe(method="score"), init=base, reference=reference)
    name = "model/open_clip_model.safetensors"
    mine, theirs = (load_state(artifact.read_bytes(name)) for artifact in (scored, base))
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert sum(table.num_rows for table in scored.tables("ledger/")) == 31


def test_uniform_with_reference_records_scores_that_change_nothing(
    pool: tuple[Artifact, str], base: Artifact, reference: Artifact, tmp_path: Path
) -> None:
    plain = train(tmp_path / "plain", pool, recipe(), init=base)
    scored = train(tmp_path / "scored", pool, recipe(), init=base, reference=reference)
    name = "model/open_clip_model.safetensors"
    assert plain.read_bytes(name) == scored.read_bytes(name)
    assert sum(table.num_rows for table in scored.tables("ledger/")) == 31


def test_accumulated_training_equals_whole_batches(pool: tuple[Artifact, str], base: Artifact, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", pool, recipe(), init=base)
    pieces = train(tmp_path / "pieces", pool, recipe(accumulation=3), init=base)
    losses = [artifact.read_table("history.parquet").column("loss").to_numpy() for artifact in (whole, pieces)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_diverging_training_stops_with_step_and_history(pool: tuple[Artifact, str], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"(?s)not finite.*step \d+.*before it"):
        train(tmp_path, pool, recipe(learning_rate=1e30, warmup=0, epochs=3))


def test_mimic_without_reference_is_refused(pool: tuple[Artifact, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs weights to mimic"):
        train(tmp_path, pool, recipe(method="mimic"))


def test_reference_equal_to_the_student_is_refused(pool: tuple[Artifact, str], base: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="length zero"):
        refer(tmp_path, pool, reference_config(), recipe(method="mimic"), init=base, weights=base)


def test_uninformative_reference_stops_the_run(
    pool: tuple[Artifact, str], base: Artifact, tuned: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.train import check

    monkeypatch.setattr(check, "INFORMATIVE", 2.0)
    stop = reference_config(on_uninformative="stop")
    with pytest.raises(RunError, match="reference is uninformative") as stopped:
        refer(tmp_path, pool, stop, recipe(method="mimic"), init=base, weights=tuned)
    assert "on 24 samples" in str(stopped.value)
    assert "reference.on_uninformative: warn" in str(stopped.value)


def test_file_source_of_other_shape_is_refused_before_anything_starts(base: Artifact, tmp_path: Path) -> None:
    wide = recipe().model.model_copy(update={"embed_dim": 12})
    path = f"{base.root}/model/open_clip_model.safetensors"
    config = ReferenceConfig(source=path)
    stage = ReferenceStage(config, pool_path=str(tmp_path), train=recipe(method="mimic", model=wide))
    with pytest.raises(UserError, match=r"(?s)do not fit.*text_projection \[8, 12\].*text_projection \[8, 8\]"):
        stage.preflight({"weights": listed(path)}, Storage())


def test_file_source_is_the_reference(
    pool: tuple[Artifact, str], base: Artifact, tuned: Artifact, tmp_path: Path
) -> None:
    path = f"{tuned.root}/model/open_clip_model.safetensors"
    config = ReferenceConfig(source=path, on_uninformative="warn", check_samples=24)
    stage = ReferenceStage(config, pool_path=pool[1], train=recipe(method="mimic"))
    stage.preflight({"weights": listed(path)}, Storage())
    made = run_stage(
        stage,
        tmp_path,
        "reference",
        inputs={"pool": pool[0], "init": base},
        external={"shards": listed(pool[1]), "weights": listed(path)},
    )
    assert made.summary["source"] == path
    theirs = load_state(tuned.read_bytes("model/open_clip_model.safetensors"))
    mine = load_state(made.read_bytes("model/open_clip_model.safetensors"))
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", ["visual.transformer.resblocks.7.mlp.c_proj.weight", "logit_scale", "nonsense"])
def test_parameter_that_cannot_be_mimicked_is_refused_with_those_that_can(name: str) -> None:
    stage = TrainStage(recipe(mimic=MimicConfig(parameters=[name])), pool_path="x")
    with pytest.raises(UserError, match="cannot be mimicked") as refused:
        stage.preflight({}, Storage())
    assert name in str(refused.value)
    assert "visual.transformer.resblocks.1.mlp.c_proj.weight" in str(refused.value)


def test_plan_counts_steps_and_hours() -> None:
    config = recipe(epochs=None, samples_seen=12_800_000, batch_size=4096, lanes=8, num_workers=8, use_gpu=True)
    rates = {**RatesConfig().model_dump(), "train_samples_per_second_per_gpu": 2000.0}
    plan = TrainStage(config, pool_path="x").plan({"pool": Size(12_800_000, 0), "reference": Size(0, 0)}, rates)
    assert plan.steps == 3125
    assert plan.gpu_hours == pytest.approx(12_800_000 / 2000 / 3600)


def test_modules_of_stages_bring_neither_torch_nor_ray() -> None:
    code = "import sys, stages.train.stage, stages.train.reference; print({'torch', 'ray'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_decoding_in_processes_gives_the_same_training(
    pool: tuple[Artifact, str], base: Artifact, tmp_path: Path
) -> None:
    beside = train(tmp_path, pool, recipe(epochs=2, loader_processes=1), "training/base")
    assert beside.manifest.content == base.manifest.content


def test_timing_is_volatile(base: Artifact) -> None:
    entry = next(file for file in base.manifest.files if file.path.startswith("timing-"))
    assert entry.volatile
    timing = json.loads(base.read_bytes(entry.path))
    assert timing["samples_per_second"] > 0
    assert 0 < timing["data_wait_share"] < 1
    assert pq.read_table(f"{base.root}/history.parquet").num_rows == 6
