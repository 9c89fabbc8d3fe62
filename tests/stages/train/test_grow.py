"""A score table of a pool that grew, against dictionaries of rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.rates import RatesConfig
from pipeline.stage import Size, StageResult
from pipeline.storage import Storage
from stages.formats.ledger import LEDGER
from stages.formats.ledger_gather import gather_ledger, scored
from stages.kernels.scale import batch_scales
from stages.train.added import AddedStage
from stages.train.config import TrainConfig
from stages.train.grow import GrownLossStage, GrownMimicStage
from stages.train.weighting import SoftmaxWeighting
from tests.artifacts import commit, run_stage
from tests.stages.formats.test_ledger_gather import run_here, training_of
from tests.stages.train.tiny import model_config
from tests.stages.train.tiny_pool import make_pool, uid_of

RECIPE = TrainConfig(model=model_config(), epochs=2, batch_size=8, lanes=2, temperature=0.5)
STAGES: dict[str, Any] = {"score": GrownMimicStage, "loss": GrownLossStage}


def ledger(numbers: list[int], *, first_step: int, visit: int, seed: int, batch: int = 8) -> pa.Table:
    """A pass over samples, in batches."""
    rng = np.random.default_rng(seed)
    count = len(numbers)
    columns = {
        "uid_hi": np.array([uid_of(number)[0] for number in numbers], np.uint64),
        "uid_lo": np.array(numbers, np.uint64),
        "visit": np.full(count, visit, np.uint16),
        "step": (first_step + np.arange(count) // batch).astype(np.int32),
        "score": rng.normal(size=count).astype(np.float32),
        "weight": np.full(count, 1 / batch, np.float32),
        "loss": rng.random(count).astype(np.float32),
    }
    return pa.table({name: columns[name] for name in LEDGER.names}, LEDGER)


def training(root: Path, tables: list[pa.Table], name: str, method: str) -> Artifact:
    """A training with these passes in its ledger."""
    table = pa.concat_tables(tables) if tables else None
    parts = {(0, int(table["step"].to_numpy().max()), 0): table} if table is not None else {}
    made = training_of(root, parts)
    steps = 0 if table is None else int(table["step"].to_numpy().max()) + 1
    return commit(root, name, StageResult(tuple(made.files()), {"method": method, "steps": steps}))


def gathered(root: Path, made: Artifact, bits: int, measure: Any, usable: int) -> Artifact:
    found = gather_ledger(run_here, made, ArtifactWriter(str(root), Storage()), measure=measure, bits=bits, name="x")
    pool = commit(root / "pool", "pool", StageResult((), {"usable": usable, "bucket_bits": bits}))
    return commit(root, "scores/x", StageResult(found.files, found.summary("x", pool)))


def rows(scores: Artifact) -> dict[tuple[int, int], dict[str, Any]]:
    """By (number, visit)."""
    found = [row for table in scores.tables("bucket-") for row in table.to_pylist()]
    keys = [(row["uid_lo"], row["visit"]) for row in found]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, found, strict=True))


class Night:
    """A pool of 40 samples trained on twice, of which 25 stay; 20 are added."""

    def __init__(self, root: Path, measure: Any, *, bits: tuple[int, int] = (1, 2), added: int = 20) -> None:
        before, _ = make_pool(root / "before", [25, 15], bits=bits[0])
        self.pool, _ = make_pool(root / "now", [25, added] if added else [25], bits=bits[1])
        passes = [ledger(list(range(40)), first_step=5 * visit, visit=visit, seed=visit) for visit in (0, 1)]
        self.trained = training(root / "trained", passes, "training/mimic", "mimic")
        self.earlier = gathered(root / "earlier", self.trained, bits[0], measure, 40)
        stage = AddedStage(RECIPE.as_score_pass())
        inputs = {"pool": self.pool, "earlier": before}
        self.added = run_stage(stage, root / "added", "subset_added", inputs=inputs)
        new = {number for table in self.added.tables("added/") for number in table["uid_lo"].to_pylist()}
        companions = [number for number in range(25) if number % 2]
        self.new, self.ledger = new, ledger([*companions, *sorted(new)], first_step=0, visit=0, seed=9)
        self.score_pass = training(root / "pass", [self.ledger] if added else [], "training/added", "score")
        self.measure, self.root = measure, root

    def grown(self, config: TrainConfig = RECIPE) -> Artifact:
        stage = STAGES[self.measure](config, selector="x")
        inputs = {
            "pool": self.pool, "earlier": self.earlier, "added": self.added, "training": self.score_pass,
            "trained": self.trained,
        }  # fmt: skip
        return run_stage(stage, self.root / "grown", "scores/x", inputs=inputs)


@pytest.mark.parametrize("bits", [(1, 2), (2, 1), (0, 0)])
@pytest.mark.parametrize("measure", ["score", "loss"])
def test_rows_of_samples_that_stay_are_carried_over_and_new_ones_have_the_last_visit(
    tmp_path: Path, measure: str, bits: tuple[int, int]
) -> None:
    night = Night(tmp_path, measure, bits=bits)
    found, before = rows(night.grown()), rows(night.earlier)
    assert set(found) == {(n, visit) for n in range(25) for visit in (0, 1)} | {(n, 1) for n in night.new}
    assert all(found[key] == before[key] for key in found if key[0] < 25)
    fresh = scored(night.ledger, measure).to_pylist()  # type: ignore[arg-type]
    for row in fresh:
        if row["uid_lo"] in night.new:
            grown = found[row["uid_lo"], 1]
            assert grown["step"] == row["step"] + 10, "behind the steps of the training"
            assert {name: grown[name] for name in ("score", "rank", "z", "batch")} == {
                name: row[name] for name in ("score", "rank", "z", "batch")
            }


def test_new_samples_are_ranked_among_their_companions(tmp_path: Path) -> None:
    night = Night(tmp_path, "score")
    rank, _ = batch_scales(night.ledger["step"].to_numpy(), night.ledger["score"].to_numpy())
    of = dict(zip(night.ledger["uid_lo"].to_pylist(), rank.tolist(), strict=True))
    found = rows(night.grown())
    assert {number: found[number, 1]["rank"] for number in night.new} == {number: of[number] for number in night.new}


def test_weights_are_those_that_training_would_have_given(tmp_path: Path) -> None:
    night = Night(tmp_path, "score")
    found = rows(night.grown())
    for step in set(night.ledger["step"].to_pylist()):
        batch = [row for row in night.ledger.to_pylist() if row["step"] == step]
        scores = np.array([row["score"] for row in batch])
        weights = SoftmaxWeighting(0.5).weigh(scores, np.ones(len(batch), bool)).values
        for row, weight in zip(batch, weights, strict=True):
            if row["uid_lo"] in night.new:
                assert found[row["uid_lo"], 1]["weight"] == pytest.approx(weight, rel=1e-6)


def test_weights_of_a_training_that_weighs_all_alike_stay_as_recorded(tmp_path: Path) -> None:
    night = Night(tmp_path, "score")
    found = rows(night.grown(TrainConfig(model=model_config(), method="uniform", epochs=2, batch_size=8, lanes=2)))
    assert {found[number, 1]["weight"] for number in night.new} == {0.125}


def test_summary_tells_the_passes_and_counts_add_up(tmp_path: Path) -> None:
    night = Night(tmp_path, "score")
    grown = night.grown()
    first, second = grown.summary["passes"]
    assert first == {"training": f"training/mimic/{'0' * 16}", "method": "mimic", "first_step": 0, "steps": 10,
                     "rows": 50}  # fmt: skip
    assert (second["training"], second["method"]) == (f"training/added/{'0' * 16}", "score")
    assert (second["first_step"], second["rows"]) == (10, 20)
    assert (grown.summary["scored"], grown.summary["visits"], grown.summary["coverage"]) == (45, 2, 1.0)
    counts = grown.manifest.counts
    assert counts is not None
    assert counts.dropped == {"left_the_pool": 30, "companions": 12}
    assert (counts.seen, counts.out) == (80 + 32, 70)


def test_table_that_grew_grows_again_with_all_its_passes(tmp_path: Path) -> None:
    night = Night(tmp_path / "first", "score")
    once = night.grown()
    pool, _ = make_pool(tmp_path / "pool", [25, 20, 10], bits=1)
    added = run_stage(
        AddedStage(RECIPE.as_score_pass()), tmp_path / "added", "subset_added",
        inputs={"pool": pool, "earlier": night.pool},
    )  # fmt: skip
    new = sorted(number for table in added.tables("added/") for number in table["uid_lo"].to_pylist())
    assert new == list(range(45, 55))
    second = training(tmp_path / "pass", [ledger(new, first_step=0, visit=0, seed=4)], "training/added", "score")
    inputs = {"pool": pool, "earlier": once, "added": added, "training": second, "trained": night.trained}
    twice = run_stage(GrownMimicStage(RECIPE, selector="x"), tmp_path / "grown", "scores/x", inputs=inputs)
    assert [(each["method"], each["first_step"], each["rows"]) for each in twice.summary["passes"]] == [
        ("mimic", 0, 50), ("score", 10, 20), ("score", 14, 10),
    ]  # fmt: skip
    found, before = rows(twice), rows(once)
    assert all(found[key] == row for key, row in before.items())
    assert {key for key in found if key not in before} == {(number, 1) for number in new}


def test_pool_to_which_nothing_was_added_keeps_the_scores_that_it_needs(tmp_path: Path) -> None:
    night = Night(tmp_path, "score", added=0)
    grown = night.grown()
    assert set(rows(grown)) == {(n, visit) for n in range(25) for visit in (0, 1)}
    assert [each["rows"] for each in grown.summary["passes"]] == [50, 0]


def test_plan_counts_both_tables_and_says_what_differs_from_scratch() -> None:
    rows_of = {"pool": 1_100_000, "earlier": 1_000_000, "training": 200_000}
    sizes = {role: Size(number, 40 * number) for role, number in rows_of.items()}
    plan = GrownMimicStage(RECIPE, selector="mimic").plan(sizes, RatesConfig().model_dump())
    assert plan.output.rows == 1_200_000
    assert "1,000,000 scores carried over" in plan.note
    assert "a training from scratch would give others" in plan.note
