"""Voters' values by uid and by place, and cuts by the one from cuts by the other."""

import numpy as np
import pytest

from pipeline.artifact import parquet_bytes
from pipeline.errors import RunError
from stages.binarize_config import BinarizeConfig, Voter
from stages.binarize_values import cut_by_uid, placed_voters, read_voters
from stages.kernels.radix import Cut
from tests.artifacts import with_file
from tests.stages.uid_tables import make_scores, random_uids


def voter(method="top_fraction", *, selector="s", visit=0, scale="raw"):
    return Voter(selector, visit, method, 0.5, "scored", scale, 0.0)


def test_read_voters_reads_each_table_once_for_all_its_voters(tmp_path):
    hi, lo = random_uids(20)
    step, weight = np.zeros(20), np.full(20, 0.1)
    table = make_scores(tmp_path / "s", hi, lo, np.arange(20), step=step, weight=weight)
    other = make_scores(tmp_path / "t", hi, lo, -np.arange(20))
    config = BinarizeConfig()
    voters = [
        *config.voters_of("s", 1, "batched"),
        voter(selector="t"),
        voter(selector="s", scale="weight", method="threshold"),
        voter(selector="s", visit="mean", scale="batch_z"),
    ]
    found = dict(read_voters({"s": table, "t": other}, voters, 0))
    assert [found[place].values[0] for place in range(4)] == [0.025, 0.0, 2.0, pytest.approx(-1.6475, abs=1e-3)]
    assert all(np.array_equal(one.uid_hi, hi) for one in found.values())


def test_read_voters_unsorted_table_is_an_error(tmp_path):
    hi, lo = random_uids(4)
    table = make_scores(tmp_path / "s", hi, lo, np.arange(4))
    rows = table.read_table("bucket-00000.parquet").take([1, 0, 2, 3])
    table = with_file(table, "bucket-00000.parquet", parquet_bytes(rows))
    with pytest.raises(RunError, match=r"not sorted[\s\S]*uid [0-9a-f]{32}"):
        list(read_voters({"s": table}, [voter()], 0))


@pytest.mark.parametrize("visit", [0, 1, "mean", "last"])
def test_places_ascend_as_the_uids_do_and_belong_to_the_same_values(tmp_path, visit):
    hi, lo = random_uids(40)
    sample, visits = np.tile(np.arange(40), 2), np.repeat([0, 1], 40)
    table = make_scores(tmp_path / "s", hi[sample], lo[sample], np.arange(80), bits=2, visit=visits)
    places, uids = [], []
    for bucket in range(4):
        ((_, by_uid),) = read_voters({"s": table}, [voter(visit=visit)], bucket)
        ((_, placed),) = placed_voters({"s": table}, [voter(visit=visit)], bucket)
        assert np.array_equal(placed.values, by_uid.values)
        places += placed.place.tolist()
        uids += by_uid.uid_hi.tolist()
    assert places == sorted(set(places))
    assert uids == hi.tolist()


@pytest.mark.parametrize("visit", [0, 1])
def test_cut_by_uid_keeps_what_the_cut_by_place_keeps_at_any_place(tmp_path, visit):
    """Rows of one value: only the place decides. Bucket 2 of 4 is empty; places of no row come from whole digits."""
    hi, lo = random_uids(30)
    third = (hi >> np.uint64(62)) == 2
    hi, lo = hi[~third], lo[~third]
    num_rows = len(hi)
    sample, visits = np.tile(np.arange(num_rows), 2), np.repeat([0, 1], num_rows)
    table = make_scores(tmp_path / "s", hi[sample], lo[sample], np.ones(2 * num_rows), bits=2, visit=visits)
    chosen = voter(visit=visit)
    parts = [dict(placed_voters({"s": table}, [chosen], bucket))[0] for bucket in range(4)]
    places = np.concatenate([part.place for part in parts])
    value = int(parts[0].keys.columns[0][0])
    bounds = [(bucket << 32) + row for bucket in range(5) for row in (0, 1, 2, 5, 9, 60, (1 << 32) - 1)]
    for bound in bounds:
        cut = cut_by_uid(Cut((value, (1 << 64) - 1 - bound)), chosen, {"s": table}, 4)
        kept = np.concatenate(
            [cut.keeps(dict(read_voters({"s": table}, [chosen], bucket))[0].keys) for bucket in range(4)]
        )
        assert np.array_equal(kept, places <= bound), bound


def test_cut_that_keeps_nothing_needs_no_table():
    assert cut_by_uid(Cut(None), voter(), {}, 4) == Cut(None)
