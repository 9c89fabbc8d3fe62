"""What a recipe promises, seen through whole trainings of the stage in this process."""

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch

from pipeline.artifact import Artifact
from pipeline.config_base import Config
from stages.models.config import ModelConfig
from stages.models.weights import load_state
from stages.train.checkpoint import CheckpointStore
from stages.train.checkpoint import load_state as load_training_state
from stages.train.config import EffectiveBatch, MimicConfig, TrainConfig
from stages.train.gather import GatherStage
from stages.train.optimizer import learning_rate
from stages.train.spec import OPTIMIZER
from tests.artifacts import context, run_stage
from tests.stages.train.conftest import Lineage
from tests.stages.train.test_stage import recipe, refer, reference_config, train

WEIGHTS = "model/open_clip_model.safetensors"


def mimic(root: Path, lineage: Lineage, **changes: Any) -> Artifact:
    config = recipe(**{"method": "mimic", **changes})
    return train(root, lineage.pool, config, "training/mimic", init=lineage.base, reference=lineage.reference)


def ledger_of(training: Artifact) -> pa.Table:
    return pa.concat_tables(training.tables("ledger/"))


def weights_of(training: Artifact, name: str = WEIGHTS) -> dict[str, torch.Tensor]:
    return load_state(training.read_bytes(name))


def history_of(training: Artifact) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = training.read_table("history.parquet").to_pydict()
    return found


def optimizer_of(training: Artifact, root: Path) -> dict[str, Any]:
    store = CheckpointStore(context(root).output)
    last = store.latest()
    assert last is not None
    assert last.step == training.summary["steps"]
    found: dict[str, Any] = load_training_state(store.read(last, OPTIMIZER))
    return found


@pytest.mark.parametrize(
    ("samples_seen", "steps", "epochs", "trained"),
    [(1, 1, 0, 12), (24, 2, 0, 24), (25, 3, 1, 31), (36, 3, 1, 31), (37, 4, 1, 43), (60, 5, 1, 55), (72, 6, 2, 62)],
)
def test_samples_seen_ends_after_whole_batches_and_counts_no_filler(
    lineage: Lineage, tmp_path: Path, samples_seen: int, steps: int, epochs: int, trained: int
) -> None:
    made = mimic(tmp_path, lineage, epochs=None, samples_seen=samples_seen)
    summary = made.summary
    assert (summary["steps"], summary["epochs"], summary["samples_seen"]) == (steps, epochs, trained)
    assert ledger_of(made).num_rows == trained
    assert len(made.files("models/")) == epochs, "only finished epochs leave a model"
    assert made.read_json("checks.json")[-1]["step"] == steps, "the end is a checkpoint, wherever it lies"


def test_training_that_ends_inside_an_epoch_is_the_start_of_the_longer_one(lineage: Lineage, tmp_path: Path) -> None:
    """Without a schedule that knows the end: the order of batches does not."""
    short = mimic(tmp_path / "a", lineage, epochs=None, samples_seen=48, warmup=1000)
    long = mimic(tmp_path / "b", lineage, epochs=None, samples_seen=72, warmup=1000)
    rows = [
        {(r["uid_hi"], r["uid_lo"], r["visit"]): r["score"] for r in ledger_of(made).to_pylist() if r["step"] < 4}
        for made in (short, long)
    ]
    assert rows[0] == rows[1]


def test_history_follows_the_recipe(lineage: Lineage, tmp_path: Path) -> None:
    made = mimic(tmp_path, lineage, epochs=2, temperature=0.3)
    history, ledger = history_of(made), ledger_of(made)
    assert history["samples_seen"] == [12, 24, 36, 48, 60, 72]
    config = recipe(method="mimic", epochs=2)
    assert history["learning_rate"] == [learning_rate(step, 6, config) for step in range(6)]
    assert history["temperature"] == [0.3] * 6
    assert all(length > 0 for length in history["direction_norm"])
    for step in range(6):
        rows = ledger.filter(pa.array(ledger["step"].to_numpy() == step))
        score, weight = rows["score"].to_numpy(), rows["weight"].to_numpy().astype(np.float64)
        assert history["loss"][step] == pytest.approx(rows["loss"].to_numpy().mean(), rel=1e-5)
        found = [history[f"score_q{q}"][step] for q in (10, 50, 90)]
        np.testing.assert_allclose(found, np.quantile(score, [0.1, 0.5, 0.9]), rtol=1e-4, atol=1e-7)
        share = 1 / np.square(weight).sum() / len(weight)
        assert history["effective_batch"][step] == pytest.approx(share, rel=1e-4)
        softmax = np.exp((score - score.max()) / 0.3)
        np.testing.assert_allclose(weight, softmax / softmax.sum(), rtol=1e-4)


def test_last_short_batch_scores_and_weighs_its_own_samples_alone(lineage: Lineage, tmp_path: Path) -> None:
    ledger = ledger_of(mimic(tmp_path, lineage, temperature=EffectiveBatch(effective_batch=0.8)))
    steps = ledger["step"].to_numpy()
    assert np.bincount(steps).tolist() == [12, 12, 7]
    weights = np.bincount(steps, weights=ledger["weight"].to_numpy())
    np.testing.assert_allclose(weights, 1.0, atol=1e-6)
    effective = 1 / np.bincount(steps, weights=np.square(ledger["weight"].to_numpy().astype(np.float64)))
    np.testing.assert_allclose(effective, [0.8 * 12, 0.8 * 12, 0.8 * 7], rtol=1e-4)


@pytest.mark.parametrize("tower", ["image", "text", "both"])
@pytest.mark.parametrize("reading", ["own_loss", "path"])
def test_towers_and_readings_train_and_name_what_they_mimic(
    lineage: Lineage, tmp_path: Path, tower: str, reading: str
) -> None:
    made = mimic(tmp_path, lineage, mimic=MimicConfig(tower=tower, reading=reading))  # type: ignore[arg-type]
    image, text = (f"{prefix}transformer.resblocks.1.mlp.c_proj.weight" for prefix in ("visual.", ""))
    names = {"image": [image], "text": [text], "both": [text, image]}[tower]
    assert made.summary["mimicked"] == names
    theirs, mine = weights_of(lineage.reference), weights_of(lineage.base)
    length = np.sqrt(sum(float((theirs[name] - mine[name]).double().square().sum()) for name in names))
    assert history_of(made)["direction_norm"][0] == pytest.approx(length, rel=1e-6), "v at the first step"
    assert ledger_of(made).num_rows == 31


def test_readings_differ_while_the_first_losses_do_not(lineage: Lineage, tmp_path: Path) -> None:
    own, path = (
        ledger_of(mimic(tmp_path / reading, lineage, mimic=MimicConfig(reading=reading)))  # type: ignore[arg-type]
        for reading in ("own_loss", "path")
    )
    first = own["step"].to_numpy() == 0
    np.testing.assert_array_equal(own["loss"].to_numpy()[first], path["loss"].to_numpy()[first])
    assert abs(own["score"].to_numpy()[first] - path["score"].to_numpy()[first]).max() > 1e-6


def test_custom_text_model_goes_through_all_stages(lineage: Lineage, tmp_path: Path) -> None:
    model = ModelConfig(**{**recipe().model.model_dump(exclude_defaults=True), "custom_text": True})
    base = train(tmp_path / "base", lineage.pool, recipe(model=model), "training/base")
    tuned = train(tmp_path / "tuned", lineage.pool, recipe(model=model), init=base, subset=lineage.trusted)
    config = recipe(model=model, method="mimic", mimic=MimicConfig(tower="both"))
    reference = refer(tmp_path / "r", lineage.pool, reference_config(), config, init=base, weights=tuned)
    made = train(tmp_path / "m", lineage.pool, config, init=base, reference=reference)
    assert made.summary["mimicked"][0] == "text.transformer.resblocks.1.mlp.c_proj.weight"
    loaded = open_clip.create_model(f"local-dir:{made.root}/model")
    assert isinstance(loaded, open_clip.CustomTextCLIP)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in weights_of(made).items())


def test_average_pooled_tower_is_mimicked(lineage: Lineage, tmp_path: Path) -> None:
    body = recipe().model.model_dump(exclude_defaults=True)
    model = ModelConfig(**{**body, "vision_cfg": {**body["vision_cfg"], "pool_type": "avg"}})
    base = train(tmp_path / "base", lineage.pool, recipe(model=model), "training/base")
    tuned = train(tmp_path / "tuned", lineage.pool, recipe(model=model), init=base)
    config = recipe(model=model, method="mimic")
    reference = refer(tmp_path / "r", lineage.pool, reference_config(), config, init=base, weights=tuned)
    made = train(tmp_path / "m", lineage.pool, config, init=base, reference=reference)
    scores = ledger_of(made)["score"].to_numpy()
    assert len(np.unique(scores)) > 20


def test_bfloat16_training_keeps_float32_weights_near_those_of_fp32(lineage: Lineage, tmp_path: Path) -> None:
    exact, rough = (mimic(tmp_path / precision, lineage, precision=precision) for precision in ("fp32", "amp_bf16"))
    start, one, other = weights_of(lineage.base), weights_of(exact), weights_of(rough)
    assert all(tensor.dtype == torch.float32 for tensor in other.values())
    assert any(not torch.equal(one[name], other[name]) for name in one), "bfloat16 must show somewhere"
    moved = torch.cat([(one[name] - start[name]).flatten() for name in sorted(one)])
    apart = torch.cat([(one[name] - other[name]).flatten() for name in sorted(one)])
    assert float(apart.norm()) < 0.5 * float(moved.norm())
    losses = [history_of(made)["loss"] for made in (exact, rough)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.05)


def test_same_recipe_gives_the_same_bytes_and_another_seed_others(lineage: Lineage, tmp_path: Path) -> None:
    first, again = (train(tmp_path / name, lineage.pool, recipe(precision="amp_bf16")) for name in "ab")
    assert first.manifest.content == again.manifest.content
    other = run_stage_with_seed(tmp_path / "c", lineage, recipe(precision="amp_bf16"), 1)
    assert other.manifest.content != first.manifest.content


def run_stage_with_seed(root: Path, lineage: Lineage, config: TrainConfig, seed: int) -> Artifact:
    from stages.train.stage import TrainStage
    from tests.artifacts import listed

    stage = TrainStage(config, pool_path=lineage.pool[1])
    external = {"shards": listed(lineage.pool[1])}
    return run_stage(stage, root, "training/x", inputs={"pool": lineage.pool[0]}, external=external, seed=seed)


def test_grad_clip_bounds_what_the_optimizer_sees(lineage: Lineage, tmp_path: Path) -> None:
    """After one step AdamW's mean gradient is (1 - beta1) g: its length tells the gradient's."""
    lengths = {}
    for bound in (None, 1e-3):
        root = tmp_path / str(bound)
        made = train(root, lineage.pool, recipe(grad_clip=bound, epochs=None, samples_seen=12))
        state = optimizer_of(made, root)["state"]
        squares = sum(float(entry["exp_avg"].double().square().sum()) for entry in state.values())
        lengths[bound] = np.sqrt(squares) / 0.1
    assert lengths[None] > 1e-2
    assert lengths[1e-3] == pytest.approx(1e-3, rel=1e-2)


def test_learning_rate_of_the_last_step_is_in_the_checkpoint(lineage: Lineage, tmp_path: Path) -> None:
    made = train(tmp_path, lineage.pool, recipe(epochs=2))
    groups = optimizer_of(made, tmp_path)["param_groups"]
    assert {group["lr"] for group in groups} == {history_of(made)["learning_rate"][-1]}
    assert [group["weight_decay"] for group in groups] == [0.0, recipe().weight_decay]


def test_logit_scale_in_history_is_the_models_after_the_step(lineage: Lineage, tmp_path: Path) -> None:
    made = train(tmp_path, lineage.pool, recipe(epochs=2))
    assert history_of(made)["logit_scale"][-1] == pytest.approx(float(weights_of(made)["logit_scale"]), rel=1e-7)
    assert history_of(made)["logit_scale"][0] != history_of(made)["logit_scale"][-1]


def test_epoch_models_load_in_open_clip_and_differ(lineage: Lineage) -> None:
    model = open_clip.create_model(f"local-dir:{lineage.base.root}/model")
    states = [weights_of(lineage.base, f"models/epoch-{epoch:03d}.safetensors") for epoch in range(2)]
    for state in states:
        model.load_state_dict(state)
    assert not torch.equal(states[0]["visual.proj"], states[1]["visual.proj"])
    assert history_of(lineage.base)["logit_scale"][2] == pytest.approx(float(states[0]["logit_scale"]), rel=1e-7)


def test_with_replacement_some_are_never_seen_and_visits_tell_repetitions(lineage: Lineage, tmp_path: Path) -> None:
    made = mimic(tmp_path / "t", lineage, sampling="with_replacement", epochs=2)
    rows = ledger_of(made).to_pylist()
    visits: dict[tuple[int, int], list[int]] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        visits.setdefault((row["uid_hi"], row["uid_lo"]), []).append(row["visit"])
    assert len(rows) == 62, "an epoch has as many samples as the pool"
    assert all(sorted(found) == list(range(len(found))) for found in visits.values())
    assert max(map(len, visits.values())) > 2, "some shard was drawn twice in an epoch"
    scores = run_stage(
        GatherStage(Config()), tmp_path / "s", "scores/mimic", inputs={"pool": lineage.pool[0], "training": made}
    )
    assert scores.summary["scored"] == len(visits)
    assert scores.summary["coverage"] == pytest.approx(len(visits) / 31)
    assert scores.summary["visits"] == max(map(len, visits.values()))


def test_score_method_measures_the_student_as_it_is(lineage: Lineage, tmp_path: Path) -> None:
    """One pass, equal weights, no learning: any cut of the run gives the same scores."""
    whole = mimic(tmp_path / "a", lineage, method="score")
    often = mimic(tmp_path / "b", lineage, method="score", checkpoint_every=1)
    tables = [ledger_of(made).sort_by([("step", "ascending"), ("uid_lo", "ascending")]) for made in (whole, often)]
    assert tables[0].equals(tables[1])
    assert history_of(whole)["learning_rate"] == [0.0] * 3
    assert history_of(whole)["effective_batch"] == [1.0] * 3
    assert whole.read_json("checks.json") == []
    weights = tables[0]["weight"].to_numpy()
    np.testing.assert_allclose(weights, [1 / 12] * 24 + [1 / 7] * 7, rtol=1e-6)
    expected = mimic(tmp_path / "c", lineage, warmup=1000, learning_rate=1e-30)
    scores = ledger_of(expected).sort_by([("step", "ascending"), ("uid_lo", "ascending")])["score"].to_numpy()
    np.testing.assert_allclose(tables[0]["score"].to_numpy(), scores, rtol=1e-3, atol=1e-5)


def test_mimic_with_the_whole_batch_in_effect_is_uniform_to_the_bit(lineage: Lineage, tmp_path: Path) -> None:
    hot = mimic(tmp_path / "hot", lineage, temperature=EffectiveBatch(effective_batch=1.0))
    even = mimic(tmp_path / "even", lineage, method="uniform", temperature=0.05)
    assert hot.read_bytes(WEIGHTS) == even.read_bytes(WEIGHTS)
    assert history_of(hot)["temperature"] == [None] * 3
    assert history_of(hot)["effective_batch"] == pytest.approx([1.0] * 3)
