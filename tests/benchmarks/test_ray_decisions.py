"""What goes through numpy on the way by Ray Data, with Polars in the place of its groupings."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from benchmarks import ray_decisions
from benchmarks.cases import ledger_to_decisions
from benchmarks.scale.ledgers import put_ledger
from benchmarks.scale.uids import Uids
from benchmarks.workplace import paths

UID = ["uid_hi", "uid_lo"]
VISITS, FRACTION = 3, ledger_to_decisions.FRACTION


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """Files of a small ledger."""
    return paths(put_ledger(tmp_path_factory.mktemp("ledger"), Uids(3_000), VISITS), "ledger/")


@pytest.fixture(scope="module")
def ranked(ledger):
    """[rows] uid, visit and rank, batches in any order."""
    rows = pl.read_parquet(ledger).select(*UID, "visit", "step", "score").sample(fraction=1, shuffle=True, seed=1)
    return ray_decisions._ranked(rows.to_arrow())


@pytest.fixture(scope="module")
def voted(ranked):
    """[rows] uid, rank and what a vote adds to its sample's pattern."""
    places = pl.from_arrow(ranked).group_by("visit", "rank").agg(pl.len().alias("count()"))
    ranks, num_tied_kept = ray_decisions._cuts(places, VISITS, FRACTION)
    lasts = ray_decisions._last_kept(pl.from_arrow(ray_decisions._tied(ranked, ranks)), num_tied_kept)
    return pl.from_arrow(ray_decisions._voted(ranked, ranks, lasts))


def test_sums_of_votes_are_the_patterns_that_polars_finds(ledger, voted, tmp_path):
    ledger_to_decisions._polars(ledger, VISITS, tmp_path / "decisions.parquet")
    expected = pl.read_parquet(tmp_path / "decisions.parquet")
    found = voted.group_by(UID).agg(pl.col("pattern").sum(), pl.col("rank").mean()).sort(UID)
    assert found["pattern"].cast(pl.UInt64).equals(expected["pattern"])
    assert np.allclose(found["rank"], expected["mean_score"], atol=1e-6)


def test_each_visit_keeps_its_fraction(voted, ranked):
    kept = voted.with_columns(pl.Series("visit", ranked["visit"].to_numpy()))
    kept = kept.filter(pl.col("pattern") // 3 ** pl.col("visit").cast(pl.Int64) == 2)
    assert kept.group_by("visit").len().sort("visit").rows() == [(visit, 900) for visit in range(VISITS)]


def test_probabilities_go_to_the_samples_of_their_pattern():
    samples = pa.table({"pattern": np.array([8, 2, 8])})
    decided = ray_decisions._decided(samples, np.array([2, 8], np.uint64), np.array([0.25, 0.5], np.float32))
    assert decided["p_keep"].to_pylist() == [0.5, 0.25, 0.5]
