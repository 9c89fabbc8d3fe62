"""Shards against a copy and webdataset."""

import pytest

from benchmarks.cases import reshard
from tests.benchmarks.cases.conftest import check

pytest.importorskip("webdataset")


def test_reshard_case_copies_the_kept_samples_as_they_are(monkeypatch, in_process):
    in_process(reshard)
    monkeypatch.setitem(reshard._SIZES, "short", reshard._Size(60, 20, 1, 40, 1))
    lines = check(reshard.measure("short"))
    (line, other) = lines.values()
    assert (line.counts["pool"], other.counts["pool"]) == (60, 40)
    assert 8 < line.counts["samples"] < 32
    assert 4 < other.counts["samples"] < line.counts["samples"]
