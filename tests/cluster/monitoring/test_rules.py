"""Alerts, their own unit tests and the scrape configuration, by Prometheus' own tool."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.metrics import METRICS

MONITORING = Path(__file__).parents[3] / "cluster" / "monitoring"
SERIES = {metric.series: metric for metric in METRICS.values()}

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here (Debian: apt-get install prometheus)"
)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120)


def _rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def test_rules_and_configuration_are_accepted() -> None:
    for arguments in (("check", "rules", "rules.yaml"), ("check", "config", "prometheus.yaml")):
        checked = promtool(*arguments[:2], str(MONITORING / arguments[2]))
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_rules_pass_their_own_unit_tests() -> None:
    tested = promtool("test", "rules", str(MONITORING / "rules_test.yaml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("> 0.30", "> 0.50"), ("> 0.01", "> 0.05"), ("> 3600", "> 36000"), ("1.2 *", "9 *"),
        ("!= ray_gradsieve_loss", "== ray_gradsieve_loss"), ("unless on (work)", "and on (work)"),
        ("stage_failures_total) > 0", "stage_failures_total) > 1"),
    ],
)  # fmt: skip
def test_unit_tests_of_the_rules_find_a_rule_that_is_wrong(old: str, new: str, tmp_path: Path) -> None:
    rules = (MONITORING / "rules.yaml").read_text()
    assert rules.count(old) == 1
    (tmp_path / "rules.yaml").write_text(rules.replace(old, new))
    shutil.copy(MONITORING / "rules_test.yaml", tmp_path)
    assert promtool("test", "rules", str(tmp_path / "rules_test.yaml")).returncode == 1


def test_every_alert_is_tested_where_it_fires_and_says_what_to_do() -> None:
    tests = yaml.safe_load((MONITORING / "rules_test.yaml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in _rules()}
    for rule in _rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "action"}


def test_alerts_speak_of_metrics_and_labels_that_there_are() -> None:
    for rule in _rules():
        named = re.findall(r"ray_gradsieve_\w+", rule["expr"])
        assert named
        assert set(named) <= SERIES.keys()
        labels = {label for series in named for label in SERIES[series].labels}
        for group in re.findall(r"(?:by|on) \(([\w, ]+)\)", rule["expr"]):
            assert set(group.split(", ")) <= labels
        for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
            assert label in labels


def test_pods_that_are_scraped_are_those_of_the_manifests() -> None:
    config = yaml.safe_load((MONITORING / "prometheus-kubernetes.yaml").read_text())
    (job,) = config["scrape_configs"]
    kept = {rule["source_labels"][0]: rule["regex"] for rule in job["relabel_configs"] if rule.get("action") == "keep"}
    manifest = (MONITORING.parent / "kuberay" / "base" / "raycluster.yaml").read_text()
    assert f"app.kubernetes.io/name: {kept['__meta_kubernetes_pod_label_app_kubernetes_io_name']}" in manifest
    assert f"name: {kept['__meta_kubernetes_pod_container_port_name']}" in manifest
