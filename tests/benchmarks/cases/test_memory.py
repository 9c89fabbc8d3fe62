"""What stages hold beside their bounds."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.cases import memory
from benchmarks.cases.memory import Held, _line, _Size, _Watch
from pipeline.stage import Size, StagePlan
from tests.benchmarks.cases.conftest import check

SIZE = _Size(3_000, 1, 2, 60, 30, 1)


def test_watch_finds_what_a_stage_holds_for_a_while(monkeypatch):
    monkeypatch.setattr(memory, "size_of", lambda artifact: artifact)
    plan = StagePlan(Size(1, 0), peak_task_bytes=30 << 20, driver_bytes=10 << 20)
    ran = SimpleNamespace(artifact=Size(7, 0), plan=lambda rates: plan)
    watch = _Watch()
    watch.begin("stage")
    held = np.ones(50 << 17)  # 50 MiB
    time.sleep(0.3)
    del held
    watch("stage", ran)
    found = watch.found["stage"]
    assert 45 << 20 < found.peak < 70 << 20
    assert found[1:] == (30 << 20, 10 << 20, 7)


@pytest.mark.parametrize(("peak", "missed"), [(40, False), (41, True)])
def test_stage_that_holds_more_than_task_and_driver_may_misses_its_bound(peak, missed):
    line = _line("votes", [Held(peak, 30, 10, 5)] * 3, SIZE)
    assert line.missed is missed
    assert line.counts == {"rows": 5}


def test_memory_case_has_a_line_for_each_stage(monkeypatch, in_process):
    in_process(memory)
    monkeypatch.setitem(memory._SIZES, "short", SIZE)
    monkeypatch.setattr(memory, "_SMALL_TABLES", (500, 0, 1))
    monkeypatch.setattr(memory, "_SMALL_TARS", 20)
    lines = check(memory.measure("short"))
    stages = ("scores/clip_score", "scores/mimic", "votes", "decisions", "subset", "pool", "shards")
    assert list(lines) == [
        f"memory of {name}: a task and the driver / the bound that its plan states" for name in stages
    ]
