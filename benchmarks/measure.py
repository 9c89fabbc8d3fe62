"""Two contenders side by side in one process tree: interleaved pairs, the median of their ratios, a bootstrap interval.

A contender is a function without arguments. It returns a `Run`: its own seconds (what it says to time, not how long the
call took) and exact counts, which must be those that the case expects: a fast run that lost a row is no run.
"""

import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

BOOTSTRAPS = 10_000
SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Run:
    """One run of one contender."""

    seconds: float
    counts: Mapping[str, int]
    """Exact numbers of rows, samples or bytes that came out, by name."""
    peak_bytes: int | None = None
    """Peak resident memory above what the process held before."""


@dataclass(frozen=True)
class Ratio:
    """A ratio between two contenders, from pairs."""

    median: float
    low: float
    """Of the 95 % interval, by bootstrap over pairs."""
    high: float


@dataclass(frozen=True)
class Pairs:
    """What interleaved runs of two contenders gave."""

    ours: list[Run] = field(default_factory=list)
    theirs: list[Run] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ours)

    def slowdown(self) -> Ratio:
        """Our seconds by theirs: below 1 is faster."""
        return bootstrap([a.seconds / b.seconds for a, b in zip(self.ours, self.theirs, strict=True)])

    def speedup(self) -> Ratio:
        """Their seconds by ours: above 1 is faster."""
        return bootstrap([b.seconds / a.seconds for a, b in zip(self.ours, self.theirs, strict=True)])

    def seconds(self) -> dict[str, float]:
        """Median seconds of both."""
        named = (("ours", self.ours), ("theirs", self.theirs))
        return {name: float(np.median([run.seconds for run in runs])) for name, runs in named}

    def memory(self) -> Ratio:
        """Our peak memory by theirs."""
        return bootstrap(
            [(a.peak_bytes or 0) / (b.peak_bytes or 1) for a, b in zip(self.ours, self.theirs, strict=True)]
        )


def run_pairs(
    ours: Callable[[], Run], theirs: Callable[[], Run], number: int, *, warm_up: int = 1, same_counts: bool = True
) -> Pairs:
    """Run both in turn, the first one alternating, so that a slow spell of the machine meets both.

    Raises:
        AssertionError: a run's counts differ from those of the first, or (with `same_counts`) between the two.
    """
    pairs = Pairs()
    expected: dict[str, Mapping[str, int]] = {}
    for index in range(warm_up + number):
        order = (("ours", ours), ("theirs", theirs)) if index % 2 == 0 else (("theirs", theirs), ("ours", ours))
        for name, contender in order:
            gc.collect()
            run = contender()
            wanted = expected.setdefault("both" if same_counts else name, run.counts)
            assert run.counts == wanted, f"{name} gave {dict(run.counts)}, expected {dict(wanted)}"
            if index >= warm_up:
                getattr(pairs, name).append(run)
    return pairs


def timed(work: Callable[[], Mapping[str, int]]) -> Run:
    """Run and time a whole call."""
    begun = time.perf_counter()
    counts = work()
    return Run(time.perf_counter() - begun, counts)


def bootstrap(ratios: list[float]) -> Ratio:
    """Median with its 95 % percentile interval."""
    values = np.asarray(ratios)
    draws = np.random.default_rng(0).integers(0, len(values), (BOOTSTRAPS, len(values)))
    low, high = np.quantile(np.median(values[draws], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(values)), float(low), float(high))


def in_fresh_process(work: Callable[..., Any], *arguments: Any) -> tuple[Any, Run]:
    """Call `work` in a new process: its value, and seconds and peak memory above idle of that process and its children.

    Idle is what the process holds before the call, after its imports; `work` is a module-level function whose module
    imports at its top what is not to count. The Run's counts are empty.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_call, args=(there, work, arguments))
    process.start()
    there.close()
    try:
        kind, value, seconds, peak = here.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{work.__name__} ended with {process.exitcode} and no result") from None
    process.join()
    if kind == "error":
        raise RuntimeError(f"{work.__name__} failed: {value}")
    return value, Run(seconds, {}, peak)


class PeakMemory:
    """Samples the resident memory of this process's tree, see `tree_bytes`, or of this process alone."""

    def __init__(self, *, children: bool = True) -> None:
        """Nothing is sampled yet."""
        self.idle = self.peak = 0
        self._measure = tree_bytes if children else own_bytes
        self._end = Event()
        self._thread = Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        self.idle = self.peak = self._measure(os.getpid())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def above_idle(self) -> int:
        """Peak minus idle."""
        return self.peak - self.idle

    def _sample(self) -> None:
        while not self._end.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self._measure(os.getpid()))


def tree_bytes(pid: int) -> int:
    """Resident bytes of a process and all its descendants, without mapped files.

    Anonymous pages add up; shared memory (Ray's object store) is mapped by many, so the largest share stands for all.
    """
    resident = [_resident(member) for member in [pid, *_descendants(pid)]]
    return sum(own for own, _ in resident) + max(shared for _, shared in resident)


def own_bytes(pid: int) -> int:
    """Resident bytes of one process, without mapped files and shared memory."""
    return _resident(pid)[0]


def _resident(pid: int) -> tuple[int, int]:
    """Anonymous and shared resident bytes of one process; nothing of one that is gone."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return 0, 0
    return tuple(int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))  # type: ignore[return-value]


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    except OSError:
        pass
    return found


def _call(pipe: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        with PeakMemory() as memory:
            begun = time.perf_counter()
            value = work(*arguments)
            seconds = time.perf_counter() - begun
        pipe.send(("value", value, seconds, memory.above_idle))
    except BaseException as error:
        pipe.send(("error", f"{type(error).__name__}: {error}", 0.0, 0))
        raise
