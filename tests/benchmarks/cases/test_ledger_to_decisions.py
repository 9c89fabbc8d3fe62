"""Decisions against Polars'."""

import polars as pl
import pytest

from benchmarks.cases import ledger_to_decisions
from tests.benchmarks.cases.conftest import check


def test_ledger_case_makes_the_decisions_that_polars_makes(monkeypatch, in_process):
    in_process(ledger_to_decisions)
    size = ledger_to_decisions._Size(3_000, 3, 1, 1, 1_000, 1)
    monkeypatch.setitem(ledger_to_decisions._SIZES, "short", size)
    monkeypatch.setattr(ledger_to_decisions, "_ray_data", grouped)
    lines = check(ledger_to_decisions.measure("short"))
    (line, grouped_line) = lines.values()
    assert line.counts == {"samples": 3000, "rows": 9000}
    assert grouped_line.counts == {"samples": 1000, "rows": 3000}


def grouped(ledger):
    """What Ray Data groups, by Polars, so that no Ray is needed."""
    groups = pl.read_parquet(ledger).group_by("uid_hi", "uid_lo").agg(pl.len(), pl.col("score").mean())
    return groups.height, int(groups["len"].sum())


def test_ledger_case_with_another_pattern_fails():
    frame = pl.DataFrame({"uid_hi": [1], "uid_lo": [1], "pattern": [4], "p_keep": [0.5], "mean_score": [0.5]})
    assert ledger_to_decisions._apart(frame, frame) == 0
    with pytest.raises(AssertionError, match="pattern differs"):
        ledger_to_decisions._apart(frame, frame.with_columns(pattern=pl.lit(5, pl.Int64)))
    with pytest.raises(AssertionError, match="p_keep differs"):
        ledger_to_decisions._apart(frame, frame.with_columns(p_keep=pl.lit(0.6)))
