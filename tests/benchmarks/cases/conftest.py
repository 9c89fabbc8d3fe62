"""Cases at toy sizes in this process: what they compare agrees, and what they count is right."""

import time
from contextlib import contextmanager

import pytest

from benchmarks import workplace
from benchmarks.measure import Run
from benchmarks.record import Line


@pytest.fixture
def in_process(monkeypatch):
    """A function that lets a case's stages run in this process, and what else it measures in one of its own."""
    original = workplace.engine

    @contextmanager
    def here(executor="in_process"):
        del executor
        with original("in_process") as started:
            yield started

    def called(work, *arguments):
        begun = time.perf_counter()
        value = work(*arguments)
        return value, Run(time.perf_counter() - begun, {}, 1)

    def replace(case):
        monkeypatch.setattr(case, "engine", here, raising=False)
        monkeypatch.setattr(case, "in_fresh_process", called, raising=False)

    return replace


def check(lines: list[Line]) -> dict[str, Line]:
    """Lines by what they measure; each has pairs, counts and a ratio within its interval."""
    for line in lines:
        assert line.pairs >= 1
        assert all(number > 0 for number in line.counts.values())
        assert line.ratio.low <= line.ratio.median <= line.ratio.high
    return {f"{line.what} / {line.against}": line for line in lines}
