"""The dashboard: made from its panels, each query one that Prometheus can read, each metric shown."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from cluster.monitoring.dashboard import PANELS, dashboard
from pipeline.metrics import METRICS
from tests.cluster.monitoring.test_rules import MONITORING, SERIES, promtool

QUERIES = [query for panel in PANELS for query, _ in panel.queries]


def test_file_is_what_is_made() -> None:
    assert json.loads((MONITORING / "gradsieve.json").read_text()) == dashboard()


def test_every_metric_is_shown_and_none_that_there_is_not() -> None:
    shown = {name for query in QUERIES for name in re.findall(r"ray_gradsieve_\w+", query)}
    assert shown == {metric.series for metric in METRICS.values()}


def test_lines_are_named_by_labels_that_their_query_keeps() -> None:
    for panel in PANELS:
        for query, name in panel.queries:
            kept = set(re.findall(r"by \(([\w, ]+)\)", query))
            labels = {label for group in kept for label in group.split(", ")}
            assert set(re.findall(r"{{(\w+)}}", name)) == labels
            (series,) = set(re.findall(r"ray_gradsieve_\w+", query))
            assert labels <= set(SERIES[series].labels)


def test_panels_do_not_cover_one_another() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard()["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in dashboard()["panels"])
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(places)


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here (Debian: apt-get install prometheus)"
)
def test_prometheus_can_read_every_query_and_would_refuse_a_broken_one(tmp_path: Path) -> None:
    def checked(queries: list[str]) -> int:
        rules = [{"record": f"panel:{index}", "expr": query} for index, query in enumerate(queries)]
        path = tmp_path / "queries.yaml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
        return promtool("check", "rules", str(path)).returncode

    assert checked(QUERIES) == 0
    assert checked([QUERIES[0].replace("rate(", "rte(")]) != 0
