"""Decisions against Polars'."""

import polars as pl
import pytest

from benchmarks import ray_decisions
from benchmarks.cases import ledger_to_decisions
from tests.benchmarks.cases.conftest import check


def test_ledger_case_makes_the_decisions_that_polars_makes(monkeypatch, in_process):
    in_process(ledger_to_decisions)
    size = ledger_to_decisions._Size(3_000, 3, 1, 1, 1_000, 1, whole=True)
    monkeypatch.setitem(ledger_to_decisions._SIZES, "short", size)
    monkeypatch.setattr(ray_decisions, "decide", decided)
    monkeypatch.setattr(ray_decisions, "group_alone", grouped)
    lines = check(list(ledger_to_decisions.measure("short")))
    (line, decided_line, grouped_line) = lines.values()
    assert line.counts == {"samples": 3000, "rows": 9000}
    assert decided_line.counts == grouped_line.counts == {"samples": 1000, "rows": 3000}
    assert decided_line.facts["largest_difference_of_p_keep"] < 1e-6
    assert {"planned_peak_task_bytes", "polars_peak_bytes"} < line.facts.keys()


def decided(ledger, num_visits, fraction, out):
    """The decisions of Polars in the place of Ray Data's, in one file of several, so that no Ray is needed."""
    assert fraction == ledger_to_decisions.FRACTION
    out.mkdir()
    return ledger_to_decisions._polars(ledger, num_visits, out / "part.parquet")


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
