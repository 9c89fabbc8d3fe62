"""Exponents of time."""

import pytest

from benchmarks.cases import growth_stages
from benchmarks.cases.growth_stages import _growth, _Size
from tests.benchmarks.cases.conftest import check

ROWS = (1000, 10_000, 100_000)


@pytest.mark.parametrize(("power", "missed"), [(1.0, False), (0.9, False), (1.3, True)])
def test_exponent_is_the_slope_of_log_time_over_log_rows(power, missed):
    runs = {rows: [{"select": factor * rows**power} for factor in (1e-6, 3e-6)] for rows in ROWS}
    line = _growth("select", runs, {"samples": 1})
    assert line.ratio.median == pytest.approx(power)
    assert line.missed is missed
    assert line.pairs == 2


def test_growth_case_has_a_line_for_each_stage_and_one_for_the_driver(monkeypatch, in_process):
    in_process(growth_stages)
    monkeypatch.setitem(growth_stages._SIZES, "short", _Size((500, 2000), 500, 1))
    lines = check(growth_stages.measure("short"))
    assert len(lines) == 5
    for name in ("gather", "binarize", "aggregate", "select"):
        line = lines[f"growth of {name}: exponent of time in rows / linear"]
        assert set(line.seconds) == {"500", "2,000"}
        assert line.counts == {"ledger_rows_0": 1500, "ledger_rows_1": 6000}
