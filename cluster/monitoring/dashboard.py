"""The Grafana dashboard, made from the panels told here: python -m cluster.monitoring.dashboard > gradsieve.json."""

import json
from string import Template
from typing import Any, NamedTuple

from pipeline.metrics import METRICS

_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3


class Panel(NamedTuple):
    """A graph: its queries, each with what its lines are called, and the unit that Grafana shows."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


def _query(text: str) -> str:
    """With the series of each metric in the place of its `$name`."""
    return Template(text).substitute({name: metric.series for name, metric in METRICS.items()})


def _one(title: str, unit: str, query: str, name: str) -> Panel:
    return Panel(title, unit, ((_query(query), name),))


PANELS = (
    _one("Samples a second", "short", "sum by (training) (rate($samples[1m]))", "{{training}}"),
    _one("Loss", "short", "max by (training) ($loss)", "{{training}}"),
    _one("Mimic score", "short", "max by (training, quantile) ($score)", "{{training}} {{quantile}}"),
    _one("Batch in effect", "percentunit", "max by (training) ($effective_batch)", "{{training}}"),
    _one(
        "Waiting for data",
        "percentunit",
        'sum by (training) (rate($train_seconds{phase="data"}[1m])) / sum by (training) (rate($train_seconds[1m]))',
        "{{training}}",
    ),
    _one("Age of the last checkpoint", "s", "time() - max by (training) ($checkpoint_time)", "{{training}}"),
    _one("Stages that run", "short", "max by (stage) ($stage_running)", "{{stage}}"),
    _one("Stages that failed", "short", "sum by (stage) ($stage_failures)", "{{stage}}"),
    _one(
        "Rows by stage and fate",
        "short",
        "max by (stage, fate, reason) ($stage_rows)",
        "{{stage}} {{fate}} {{reason}}",
    ),
    _one("Work finished a second", "short", "sum by (work) (rate($work_done[1m]))", "{{work}}"),
    _one("Work under way", "short", "max by (work) ($work_running)", "{{work}}"),
    _one("Retries", "short", "sum by (what) (increase($retries[5m]))", "{{what}}"),
    _one(
        "Bytes of the store a second",
        "Bps",
        "sum by (operation, store) (rate($store_bytes[1m]))",
        "{{operation}} {{store}}",
    ),
    Panel(
        "Cost so far, and as planned",
        "currencyUSD",
        ((_query("max($spent_usd)"), "so far"), (_query("max($planned_usd)"), "as planned")),
    ),
)


def dashboard() -> dict[str, Any]:
    """What Grafana imports."""
    return {
        "uid": "gradsieve",
        "title": "Gradsieve",
        "tags": ["gradsieve"],
        "schemaVersion": 39,
        "timezone": "utc",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}],
        },
        "panels": [_panel(index, panel) for index, panel in enumerate(PANELS)],
    }


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(index, _COLUMNS)
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": {"spanNulls": False}}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "expr": query, "legendFormat": name}
            for i, (query, name) in enumerate(panel.queries)
        ],
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
