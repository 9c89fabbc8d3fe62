"""What a run may cost at most."""

from pipeline.config_base import Config, placement


class LimitsConfig(Config):
    """What a run may cost at most; a plan beyond it is refused, a run beyond it stops between stages."""

    hours: float | None = placement(None, gt=0)
    """Wall-clock hours of this run."""
    gpu_hours: float | None = placement(None, gt=0)
    """Planned GPU hours."""
    usd: float | None = placement(None, gt=0)
    """Planned cost by `plan.rates`."""
