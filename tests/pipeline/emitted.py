"""What was emitted, written down where Ray's metrics would be."""

from typing import Any

import pytest

from pipeline import metrics


class Emitted:
    """Values by (metric, labels in their declared order)."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, ...], float] = {}
        self.gauges: dict[tuple[str, ...], float] = {}

    def made(self, metric: metrics.Metric, labels: dict[str, str]) -> Any:
        """In place of `pipeline.metrics._made`."""
        assert set(labels) == set(metric.labels)
        return _Recorder(self, metric)


class _Recorder:
    def __init__(self, emitted: Emitted, metric: metrics.Metric) -> None:
        self._emitted, self._metric = emitted, metric

    def _key(self, tags: dict[str, str]) -> tuple[str, ...]:
        assert all(isinstance(value, str) for value in tags.values())
        return (self._metric.name, *(tags[label] for label in self._metric.labels))

    def inc(self, amount: float, tags: dict[str, str]) -> None:
        assert self._metric.kind == "counter"
        key = self._key(tags)
        self._emitted.counters[key] = self._emitted.counters.get(key, 0) + amount

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert self._metric.kind == "gauge"
        self._emitted.gauges[self._key(tags)] = value


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> Emitted:
    """Of one test."""
    found = Emitted()
    monkeypatch.setattr(metrics, "_made", found.made)
    return found
