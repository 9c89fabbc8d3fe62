"""What a run has used so far, over all attempts at the same output, held against what it may use.

Hours are those in which a driver held the output. Core and GPU hours are those that tasks and ranks kept theirs busy;
what a cluster costs while it idles, and what the store takes for requests, is not metered.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import RunError

_HOUR = 3600.0


class LimitReachedError(RunError):
    """The run used what it may; what was finished, and the last checkpoint, stay."""


@dataclass(frozen=True)
class Usage:
    """What was used."""

    hours: float = 0.0
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    attempts: int = 0

    @classmethod
    def from_record(cls, used: object) -> "Usage":
        """As a run's record holds it; nothing where it holds nothing."""
        if not isinstance(used, Mapping):
            return cls()
        return cls(**{name: used.get(name, 0) for name in cls.__dataclass_fields__})

    def to_record(self) -> dict[str, Any]:
        """Rounded to a second's worth of precision."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Budget:
    """What may be used, and at which prices."""

    hours: float | None = None
    gpu_hours: float | None = None
    usd: float | None = None
    usd_per_gpu_hour: float = 0.0
    usd_per_cpu_hour: float = 0.0

    def usd_of(self, usage: Usage) -> float:
        """What it costs."""
        return usage.gpu_hours * self.usd_per_gpu_hour + usage.cpu_hours * self.usd_per_cpu_hour


class Meter:
    """Adds up; may be asked from any thread."""

    def __init__(
        self, budget: Budget | None = None, before: Usage | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """The attempt begins.

        Args:
            budget: what may be used; anything by default.
            before: used by earlier attempts.
            clock: seconds since some moment.
        """
        self.budget, self._before, self._clock = budget or Budget(), before or Usage(), clock
        self._begun = clock()
        self._cpu_seconds = self._gpu_seconds = 0.0
        self._running: list[tuple[float, float, float]] = []
        self._lock = threading.Lock()

    def add(self, seconds: float, *, cpus: float, gpus: float = 0.0) -> None:
        """A task kept so many cores and GPUs busy."""
        with self._lock:
            self._cpu_seconds += seconds * cpus
            self._gpu_seconds += seconds * gpus

    @contextmanager
    def running(self, *, cpus: float, gpus: float = 0.0) -> Iterator[None]:
        """Cores and GPUs are busy while the context is open."""
        entry = (self._clock(), cpus, gpus)
        with self._lock:
            self._running.append(entry)
        try:
            yield
        finally:
            with self._lock:
                self._running.remove(entry)
            self.add(self._clock() - entry[0], cpus=cpus, gpus=gpus)

    def usage(self) -> Usage:
        """By all attempts until now."""
        now, before = self._clock(), self._before
        with self._lock:
            cpu, gpu = self._cpu_seconds, self._gpu_seconds
            for since, cpus, gpus in self._running:
                cpu, gpu = cpu + (now - since) * cpus, gpu + (now - since) * gpus
        return Usage(
            before.hours + (now - self._begun) / _HOUR,
            before.gpu_hours + gpu / _HOUR,
            before.cpu_hours + cpu / _HOUR,
            before.attempts + 1,
        )

    def reached(self) -> tuple[str, float, float] | None:
        """The first limit that is reached: its name, what may be used, what was."""
        usage, budget = self.usage(), self.budget
        found = (
            ("hours", budget.hours, usage.hours),
            ("gpu_hours", budget.gpu_hours, usage.gpu_hours),
            ("usd", budget.usd, budget.usd_of(usage)),
        )
        return next(((name, limit, used) for name, limit, used in found if limit is not None and used >= limit), None)

    def check(self, where: str) -> None:
        """Stop here if a limit is reached.

        Raises:
            LimitReachedError: names the limit, and how to go on.
        """
        reached = self.reached()
        if reached is None:
            return
        name, limit, used = reached
        raise LimitReachedError(
            f"the run reached its limit at {where}",
            where=f"limits.{name}",
            expected=f"at most {limit:g}, over all attempts at this output",
            found=f"{used:.4g} in {self.usage().attempts} attempt(s)",
            next_step="raise the limit and run the same command: it goes on from here",
        )


class Timed:
    """A task that also says how many seconds it took; picklable if the task is."""

    def __init__(self, task: Callable[[Any], Any]) -> None:
        """Keep the task."""
        self._task = task

    def __call__(self, item: Any) -> tuple[float, Any]:
        """Seconds and result."""
        begun = time.monotonic()
        result = self._task(item)
        return time.monotonic() - begun, result
