"""What a run may use at most."""

from pipeline.config_base import Config, placement
from pipeline.meter import Budget
from pipeline.rates import RatesConfig


class LimitsConfig(Config):
    """What a run may use at most, over all attempts at the same output.

    A plan beyond `gpu_hours` or `usd` is refused. A run that reaches a limit stops: between two tasks of a stage, or
    between two steps of a training with a checkpoint taken there. Raise the limit, and the same command goes on.
    """

    hours: float | None = placement(None, gt=0)
    """Wall-clock hours in which a driver held the output."""
    gpu_hours: float | None = placement(None, gt=0)
    """Hours that tasks and ranks kept GPUs busy."""
    usd: float | None = placement(None, gt=0)
    """Cost of core and GPU hours by `plan.rates`."""

    def budget(self, rates: RatesConfig) -> Budget:
        """With the prices that turn hours into cost."""
        return Budget(self.hours, self.gpu_hours, self.usd, rates.usd_per_gpu_hour, rates.usd_per_cpu_hour)
