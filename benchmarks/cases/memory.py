"""What each stage holds, beside the bound that its plan states: resident memory of one task and its driver, above idle.

Stages run in a process of their own, one task after the other, so that a peak is that of the largest task with all that
the driver holds beside it. Idle is what the process holds when a stage begins, after a run over a small pool: libraries
are loaded then, and what was freed is given back.
"""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from benchmarks.measure import PeakMemory, bootstrap, in_fresh_process
from benchmarks.record import Line, Target
from benchmarks.scale.chain import Ran, run_shards, run_tables
from benchmarks.workplace import scratch
from pipeline.plan import size_of
from pipeline.rates import RatesConfig

_RATES = RatesConfig().model_dump()
_SMALL_TABLES, _SMALL_TARS = (2_000, 0, 2), 100


class _Size(NamedTuple):
    samples: int
    bits: int
    visits: int
    in_tars: int
    shard_size: int
    repeats: int


_SIZES = {
    "short": _Size(400_000, 1, 5, 1_000, 500, 1),
    "full": _Size(4_000_000, 1, 5, 8_000, 2_000, 3),  # buckets of 2 million samples, as many as there are by default
}


class Held(NamedTuple):
    """Of one stage."""

    peak: int
    """Bytes above idle."""
    task: int
    """Bytes that the plan states for a task."""
    driver: int
    """The same for the driver."""
    rows: int
    """That came out."""


class _Watch:
    """Measures each stage while it runs."""

    def __init__(self) -> None:
        self.found: dict[str, Held] = {}
        self._memory = PeakMemory()

    def begin(self, name: str) -> None:
        del name
        gc.collect()
        pa.default_memory_pool().release_unused()
        ctypes.CDLL(None).malloc_trim(0)
        self._memory = PeakMemory()
        self._memory.__enter__()

    def __call__(self, name: str, ran: Ran) -> None:
        self._memory.__exit__()
        plan = ran.plan(_RATES)
        rows = size_of(ran.artifact).rows
        self.found[name] = Held(self._memory.above_idle, plan.peak_task_bytes, plan.driver_bytes, rows)


def measure(form: str) -> list[Line]:
    """A line a stage."""
    size = _SIZES[form]
    runs = [_of(_tables, size) | _of(_shards, size) for _ in range(size.repeats)]
    return [_line(name, [run[name] for run in runs], size) for name in runs[0]]


def _of(work: Callable[[Path, _Size], dict[str, Held]], size: _Size) -> dict[str, Held]:
    with scratch() as folder:
        found: dict[str, Held] = in_fresh_process(work, folder, size)[0]
    return found


def _tables(folder: Path, size: _Size) -> dict[str, Held]:
    samples, bits, visits = _SMALL_TABLES
    run_tables(folder / "small", samples, bits, visits=visits)
    watch = _Watch()
    run_tables(folder / "large", size.samples, size.bits, watch, visits=size.visits)
    return watch.found


def _shards(folder: Path, size: _Size) -> dict[str, Held]:
    run_shards(folder / "small", _SMALL_TARS, shard_size=_SMALL_TARS, check="headers")
    watch = _Watch()
    run_shards(folder / "large", size.in_tars, shard_size=size.shard_size, check="headers", watch=watch)
    return watch.found


def _line(name: str, held: list[Held], size: _Size) -> Line:
    first = held[0]
    largest = max(each.peak for each in held)
    return Line(
        f"memory of {name}: a task and the driver",
        "the bound that its plan states",
        bootstrap([each.peak / (each.task + each.driver) for each in held]),
        Target(1, "lower"),
        len(held),
        {"rows": first.rows},
        facts={
            "peak_bytes": largest,
            "planned_bytes_of_a_task": first.task,
            "planned_bytes_of_the_driver": first.driver,
            "buckets": 1 << size.bits,
        },
    )
