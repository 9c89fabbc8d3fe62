"""Exponents of time."""

import pytest

from benchmarks.cases import growth_stages
from benchmarks.cases.growth_stages import _growth, _Size, _Stages
from tests.benchmarks.cases.conftest import check

SIZE = _Size((1000, 10_000, 100_000), 1000, 2)


@pytest.mark.parametrize(("power", "missed"), [(1.0, False), (0.9, False), (1.3, True)])
def test_exponent_is_the_slope_of_log_time_over_log_rows(power, missed):
    runs = {
        rows: [_Stages({"select": factor * rows**power}, {"select": rows}) for factor in (1e-6, 3e-6)]
        for rows in SIZE.samples
    }
    line = _growth("select", runs, {"samples": 1}, SIZE)
    assert line.ratio.median == pytest.approx(power)
    assert line.missed is missed
    assert line.facts["peak_bytes_of_task_and_driver"] == {1000: 1000, 10_000: 10_000, 100_000: 100_000}


def test_growth_case_has_a_line_for_each_stage_and_one_for_the_driver(monkeypatch, in_process):
    in_process(growth_stages)
    monkeypatch.setitem(growth_stages._SIZES, "short", _Size((500, 2000), 500, 1))
    lines = check(growth_stages.measure("short"))
    assert len(lines) == 5
    for name in ("gather", "binarize", "aggregate", "select"):
        line = lines[f"growth of {name}: exponent of time in rows / linear"]
        assert set(line.seconds) == {"500", "2,000"}
        assert line.facts["planned_peak_task_bytes"] > 0
