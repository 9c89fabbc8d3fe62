"""What a run has cost so far: the cluster's CPUs and GPUs, by the configured prices, for as long as they are there."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.metrics import show
from pipeline.rates import RatesConfig

_EVERY_SECONDS = 10.0


class Spend:
    """Adds up; nodes that come and go are counted from one look to the next."""

    def __init__(self, rates: RatesConfig, resources: Callable[[], tuple[float, float]]) -> None:
        """`resources` tells CPUs and GPUs of the cluster as it is now, (0, 0) where there is none."""
        self._rates, self._resources = rates, resources
        self._looked: float | None = None
        self.usd = 0.0

    def look(self, now: float) -> None:
        """Add the time since the last look, in seconds of any clock that never goes back."""
        num_cpus, num_gpus = self._resources()
        per_hour = num_cpus * self._rates.usd_per_cpu_hour + num_gpus * self._rates.usd_per_gpu_hour
        if self._looked is not None:
            self.usd += per_hour * (now - self._looked) / 3600
        self._looked = now


@contextmanager
def spend_shown(
    rates: RatesConfig, planned_usd: float, resources: Callable[[], tuple[float, float]]
) -> Iterator[Spend]:
    """Show cost so far beside what was planned, while the context is open."""
    spend, stop = Spend(rates, resources), threading.Event()

    def watch() -> None:
        while True:
            spend.look(time.monotonic())
            show("spent_usd", spend.usd)
            show("planned_usd", planned_usd)
            if stop.wait(_EVERY_SECONDS):
                return

    watcher = threading.Thread(target=watch, name="spend", daemon=True)
    watcher.start()
    try:
        yield spend
    finally:
        stop.set()
        watcher.join(_EVERY_SECONDS)  # a cluster that is gone may answer late or never
