"""The cut against Polars."""

import pytest

from benchmarks.cases import top_fraction
from benchmarks.scale.tables import put_scores
from benchmarks.scale.uids import Uids
from benchmarks.workplace import engine, frame, paths
from stages.kernels.radix import Cut


def test_top_fraction_finds_the_last_row_that_polars_finds(tmp_path):
    table = put_scores(tmp_path / "selector", Uids(20_000, seed=3), 2)
    with engine("in_process") as here:
        (fit,) = top_fraction._ours(here, table)
    last = top_fraction._polars(paths(table), 6000)
    expected = frame(table).sort("score", "uid_hi", "uid_lo", descending=[True, False, False]).row(5999, named=True)
    assert last == (expected["score"], expected["uid_hi"], expected["uid_lo"])
    top_fraction._check(table, fit, last, 6000)


def test_top_fraction_with_another_cut_fails(tmp_path):
    table = put_scores(tmp_path / "selector", Uids(2_000), 1)
    with engine("in_process") as here:
        (fit,) = top_fraction._ours(here, table)
    last = top_fraction._polars(paths(table), 600)
    fit.cut = Cut((fit.cut.threshold[0] - (1 << 20), 0, 0))
    with pytest.raises(AssertionError, match="kept"):
        top_fraction._check(table, fit, last, 600)
