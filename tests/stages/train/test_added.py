"""Which samples are new in a pool, against sets of numbers; and who keeps them company."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import Artifact
from pipeline.rates import RatesConfig
from pipeline.stage import Size
from stages.formats.npy import read_subset
from stages.train.added import AddedStage, ScorePassStage
from stages.train.config import TrainConfig
from tests.artifacts import run_stage
from tests.stages.train.tiny import model_config
from tests.stages.train.tiny_pool import make_pool, uid_of

RECIPE = TrainConfig(
    model=model_config(), epochs=2, batch_size=8, lanes=2, temperature=0.5, sampling="with_replacement"
)
PASS = RECIPE.as_score_pass()


def added_to(root: Path, pool: Artifact, earlier: Artifact, *, batch_size: int = 8, seed: int = 3) -> Artifact:
    stage = AddedStage(PASS.model_copy(update={"batch_size": batch_size}))
    return run_stage(stage, root, "subset_added", inputs={"pool": pool, "earlier": earlier}, seed=seed)


def listed(added: Artifact) -> set[int]:
    """Numbers of all samples of the pass."""
    hi, lo = read_subset(added.storage, added.uri("sample_ids.npy"))
    assert all(uid_of(int(number)) == (int(high), int(number)) for high, number in zip(hi, lo, strict=True))
    return set(lo.tolist())


def new(added: Artifact) -> set[int]:
    return {number for table in added.tables("added/", ["uid_lo"]) for number in table["uid_lo"].to_pylist()}


@settings(deadline=None, max_examples=20)
@given(
    before=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    more=st.lists(st.integers(0, 9), max_size=3),
    bits=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_samples_of_appended_shards_are_new_and_all_others_carried_over(
    before: list[int], more: list[int], bits: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("pools")
    earlier, _ = make_pool(root / "earlier", before, bits=bits[0])
    pool, _ = make_pool(root / "pool", [*before, *more], bits=bits[1])
    added = added_to(root / "added", pool, earlier)
    old = set(range(sum(before)))
    assert new(added) == set(range(sum(before), sum(before) + sum(more)))
    assert listed(added) - new(added) <= old
    summary = added.summary
    assert (summary["added"], summary["carried"], summary["left_the_pool"]) == (sum(more), sum(before), 0)
    assert summary["kept"] == len(listed(added)) == summary["added"] + summary["companions"]


def test_samples_of_a_shard_with_other_bytes_are_new_and_their_old_ones_gone(tmp_path: Path) -> None:
    earlier, _ = make_pool(tmp_path / "earlier", [5, 7, 4])
    pool, _ = make_pool(tmp_path / "pool", [5, 7, 4], noise=True)
    added = added_to(tmp_path / "added", pool, earlier)
    assert new(added) == set(range(16))
    assert (added.summary["carried"], added.summary["left_the_pool"], added.summary["companions"]) == (0, 16, 0)


def test_samples_of_shards_that_left_are_counted(tmp_path: Path) -> None:
    earlier, _ = make_pool(tmp_path / "earlier", [5, 7, 4])
    pool, _ = make_pool(tmp_path / "pool", [5, 7])
    added = added_to(tmp_path / "added", pool, earlier)
    assert (new(added), listed(added)) == (set(), set())
    assert (added.summary["carried"], added.summary["left_the_pool"]) == (12, 4)


@pytest.mark.parametrize(("more", "batch_size", "expected"), [(100, 8, 100), (10, 60, 50), (300, 8, 200)])
def test_companions_are_about_as_many_as_the_new_ones_or_fill_a_batch(
    tmp_path: Path, more: int, batch_size: int, expected: int
) -> None:
    earlier, _ = make_pool(tmp_path / "earlier", [100, 100])
    pool, _ = make_pool(tmp_path / "pool", [100, 100, more])
    added = added_to(tmp_path / "added", pool, earlier, batch_size=batch_size)
    assert added.summary["companions"] == pytest.approx(expected, rel=0.25)


def test_companions_are_drawn_by_seed_and_uid_alone(tmp_path: Path) -> None:
    def drawn(bits: int, seed: int) -> set[int]:
        root = tmp_path / f"{bits}-{seed}"
        earlier, _ = make_pool(root / "earlier", [90], bits=bits)
        pool, _ = make_pool(root / "pool", [90, 30], bits=bits)
        return listed(added_to(root / "added", pool, earlier, seed=seed))

    assert drawn(0, 1) == drawn(3, 1) != drawn(0, 2)


def test_pass_over_nothing_makes_no_training(tmp_path: Path) -> None:
    pool, path = make_pool(tmp_path / "pool", [5])
    added = added_to(tmp_path / "added", pool, pool)
    result = run_stage(ScorePassStage(PASS, pool_path=path), tmp_path / "pass", "training/added", inputs={
        "pool": pool, "subset": added,
    })  # fmt: skip
    assert result.files() == []
    assert (result.summary["steps"], result.summary["method"]) == (0, "score")


def test_score_pass_of_a_recipe_is_one_pass_in_the_same_batches() -> None:
    assert (PASS.method, PASS.epochs, PASS.samples_seen, PASS.sampling) == ("score", 1, None, "without_replacement")
    same = ("batch_size", "lanes", "model", "mimic", "precision", "temperature", "seed")
    assert all(getattr(PASS, name) == getattr(RECIPE, name) for name in same if hasattr(RECIPE, name))


def test_plan_counts_what_is_new_by_the_sizes_of_both_pools() -> None:
    sizes = {"pool": Size(1_100_000, 44_000_000), "earlier": Size(1_000_000, 40_000_000)}
    plan = AddedStage(PASS).plan(sizes, RatesConfig().model_dump())
    assert plan.output.rows == 200_000, "a companion for each"
    assert "100,000 samples more" in plan.note


def test_numbers_of_samples_are_exact_in_every_bucket(tmp_path: Path) -> None:
    earlier, _ = make_pool(tmp_path / "earlier", [50])
    pool, _ = make_pool(tmp_path / "pool", [50, 50], bits=3)
    added = added_to(tmp_path / "added", pool, earlier)
    for bucket, table in enumerate(added.tables("added/")):
        assert ((table["uid_hi"].to_numpy() >> np.uint64(61)) == bucket).all()
