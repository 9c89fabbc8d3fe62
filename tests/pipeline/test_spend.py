"""Cost so far: CPUs and GPUs as they come and go, by their prices."""

import pytest

from pipeline.rates import RatesConfig
from pipeline.spend import Spend, spend_shown
from tests.pipeline.emitted import Emitted, emitted

__all__ = ["emitted"]

RATES = RatesConfig(usd_per_cpu_hour=0.1, usd_per_gpu_hour=3.0)


def test_cost_is_what_is_there_times_how_long() -> None:
    there = [(0.0, 0.0), (10.0, 0.0), (10.0, 8.0), (0.0, 0.0)]
    spend = Spend(RATES, lambda: there.pop(0))
    seen = []
    for hours in (5.0, 6.0, 8.0, 9.0):
        spend.look(hours * 3600)
        seen.append(spend.usd)
    # nothing before the first look; then what is there at a look counts from the look before it
    assert seen == pytest.approx([0, 1, 1 + 2 * (1 + 24), 51])


def test_cost_and_plan_are_shown_from_the_beginning(emitted: Emitted) -> None:
    with spend_shown(RATES, 12.5, lambda: (2.0, 0.0)) as spend:
        pass
    assert emitted.gauges["planned_usd",] == 12.5
    assert emitted.gauges["spent_usd",] == spend.usd >= 0


def test_error_inside_ends_the_watch_and_passes(emitted: Emitted) -> None:
    def fail() -> None:
        with spend_shown(RATES, 1.0, lambda: (0.0, 0.0)):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
