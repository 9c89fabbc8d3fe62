"""What a run shows to those who watch it: every metric is declared here, and emitted through Ray.

Prometheus scrapes the agents of Ray's nodes (`cluster/monitoring`). Where this process has no Ray running, emitting
does nothing: a run in one process has nobody who scrapes it. Ray collects every ten seconds, so the last values of a
process that ends sooner may be lost; what must not be lost is in the run's record and manifests.
"""

import sys
from typing import Any, Literal, NamedTuple


class Metric(NamedTuple):
    """One metric; in Prometheus it is `series`."""

    name: str
    kind: Literal["counter", "gauge"]
    description: str
    labels: tuple[str, ...] = ()

    @property
    def series(self) -> str:
        """Its name in Prometheus: Ray adds the prefix, and the suffix of counters."""
        return f"ray_gradsieve_{self.name}" + ("_total" if self.kind == "counter" else "")


METRICS = {
    metric.name: metric
    for metric in (
        Metric("samples", "counter", "Samples that a training has seen", ("training",)),
        Metric("loss", "gauge", "Mean loss of the last batch", ("training",)),
        Metric("effective_batch", "gauge", "Share of the last batch that its weights leave in effect", ("training",)),
        Metric("score", "gauge", "Quantiles of the mimic scores of the last batch", ("training", "quantile")),
        Metric(
            "train_seconds", "counter", "Seconds of the first rank, by what it did: data, step", ("training", "phase")
        ),
        Metric("checkpoint_time", "gauge", "When the last checkpoint was taken, or training began; s", ("training",)),
        Metric("stage_running", "gauge", "1 while a stage runs, else 0", ("stage",)),
        Metric(
            "stage_rows",
            "gauge",
            "Rows of a stage by their fate: in, out, dropped (with its reason), quarantined",
            ("stage", "fate", "reason"),
        ),
        Metric("stage_failures", "counter", "Stages that ended with an error", ("stage",)),
        Metric("work_done", "counter", "Units of work that are finished", ("work",)),
        Metric("work_running", "gauge", "1 while a piece of work is under way, else 0", ("work",)),
        Metric("retries", "counter", "What was tried again: store, ranks, partitions", ("what",)),
        Metric(
            "store_bytes",
            "counter",
            "Bytes by operation and kind of store; tables that are mapped from a local disk are not counted",
            ("operation", "store"),
        ),
        Metric("spent_usd", "gauge", "Cost so far: CPUs and GPUs of the cluster by the configured prices"),
        Metric("planned_usd", "gauge", "Cost of the whole run as planned before it began"),
    )
}


def count(name: str, amount: float = 1.0, **labels: str) -> None:
    """Add to a counter; labels by name."""
    made = _made(METRICS[name], labels)
    if made is not None and amount > 0:  # Ray refuses to add nothing
        made.inc(amount, tags=labels)


def show(name: str, value: float, **labels: str) -> None:
    """Set a gauge; labels by name."""
    made = _made(METRICS[name], labels)
    if made is not None:
        made.set(value, tags=labels)


def _made(metric: Metric, labels: dict[str, str]) -> Any:
    """Ray's own metric; None where this process has no Ray."""
    assert set(labels) == set(metric.labels), f"{metric.name}: labels {sorted(labels)}"
    initialized = getattr(sys.modules.get("ray"), "is_initialized", None)  # never imported for this, or half imported
    if initialized is None or not initialized():
        return None
    from pipeline.engine_metrics import ray_metric  # a process without Ray needs none of it

    return ray_metric(metric)
