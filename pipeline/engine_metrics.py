"""Ray's own metrics, one for each of `pipeline.metrics`; Ray stays behind the engine's seam."""

from functools import cache
from typing import Any

from pipeline.metrics import Metric


@cache
def ray_metric(metric: Metric) -> Any:
    """The counter or gauge that Ray exports under `gradsieve_<name>`; Ray runs in this process."""
    from ray.util.metrics import Counter, Gauge

    kind: Any = {"counter": Counter, "gauge": Gauge}[metric.kind]
    return kind(f"gradsieve_{metric.name}", metric.description, tag_keys=metric.labels)
