"""Prometheus on a run on a real Ray: each metric arrives, each query of the dashboard answers, each alert is evaluated.

Minutes: `make test-monitoring`, and no part of `make test`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.monitoring.dashboard import PANELS
from pipeline.metrics import METRICS
from pipeline.run_record import open_artifacts
from pipeline.storage import Storage
from tests.cluster.monitoring.test_rules import MONITORING
from tests.crash.nodes import free_port
from tests.end_to_end.runs import TINY, gradsieve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.environ.get("GRADSIEVE_LIVE_METRICS") != "1", reason="minutes: make test-monitoring"),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's package prometheus is not here"),
]

ROOT = Path(__file__).parents[3]
NOT_IN_A_RUN_THAT_GOES_WELL = {"stage_failures", "retries"}
_TRIES = 20


class Head:
    """A Ray with a dashboard, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.discovery = folder / "prom_metrics_service_discovery.json"
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
            f"--port={self.address.rpartition(':')[2]}", f"--dashboard-port={free_port()}", f"--temp-dir={folder}",
            f"--dashboard-agent-listen-port={free_port()}", "--num-cpus=6", "--object-store-memory=300000000",
        ]  # fmt: skip
        folder.mkdir()
        self._log = folder / "start.log"
        with self._log.open("wb") as sink:
            self.process = subprocess.Popen(command, env=_environment(), stdout=sink, stderr=subprocess.STDOUT)

    def is_up(self) -> bool:
        while self.process.poll() is None:
            if self.discovery.exists() and json.loads(self.discovery.read_text() or "[]"):
                return True
            time.sleep(1)
        return False

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=120)

    def told(self) -> str:
        """What it printed last, and how it ended if it did."""
        return f"Ray's exit code: {self.process.poll()}\n{self._log.read_text(errors='replace')[-3000:]}"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    for _ in range(_TRIES):  # Ray gives itself half a minute to start, which a busy machine may not manage at once
        folder = Path("/tmp", f"gsm-{os.getpid()}-{time.monotonic_ns() % 10**6}")  # sockets have short names
        made = Head(folder)
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.callback(made.end)
            if made.is_up():
                yield made
                return
    pytest.fail("Ray did not start")


class Prometheus:
    """The real one, with the project's own rules."""

    run: Path
    """Output of the run that it has seen."""

    def __init__(self, folder: Path, discovery: Path) -> None:
        config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
        config["scrape_configs"][0]["file_sd_configs"][0]["files"] = [str(discovery)]
        config["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
        config["rule_files"] = [str(MONITORING / "rules.yaml")]
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{free_port()}"
        command = [
            "prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def get(self, path: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            body = json.load(answer)
        assert body["status"] == "success"
        return body["data"]


@pytest.fixture(scope="module")
def watched(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has seen a whole run."""
    folder = tmp_path_factory.mktemp("watched")
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), head.discovery)
    try:
        assert gradsieve("pool", "make", "pool", "--samples", "512", cwd=folder).returncode == 0
        command = [sys.executable, "-m", "pipeline.cli.app", "run", str(TINY), f"cluster.address={head.address}"]
        ran = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, timeout=3000)
        assert ran.returncode == 0, ran.stderr + head.told()
        prometheus.run = folder / "runs/tiny"
        time.sleep(15)  # Ray collects every ten seconds
        yield prometheus
    finally:
        prometheus.process.terminate()
        prometheus.process.wait(timeout=60)


def _seen(prometheus: Prometheus, series: str) -> list[dict[str, Any]]:
    """At any time of the run."""
    found: list[dict[str, Any]] = prometheus.get("query", query=f"last_over_time({series}[1h])")["result"]
    return found


def test_every_metric_of_a_run_arrives_with_its_labels(watched: Prometheus) -> None:
    seen = {name: _seen(watched, metric.series) for name, metric in METRICS.items()}
    assert {name for name, found in seen.items() if not found} <= NOT_IN_A_RUN_THAT_GOES_WELL
    for name, found in seen.items():
        for one in found:
            assert set(METRICS[name].labels) <= one["metric"].keys() | {"reason"}  # Prometheus drops empty ones


def test_rows_that_arrive_are_those_of_the_run(watched: Prometheus) -> None:
    """Those of the last stages may be lost, as Ray collects every ten seconds."""
    arrived = {
        tuple(one["metric"].get(label, "") for label in METRICS["stage_rows"].labels): float(one["value"][1])
        for one in _seen(watched, METRICS["stage_rows"].series)
    }
    rows: dict[tuple[str, ...], float] = {}
    for stage, artifact in open_artifacts(str(watched.run), Storage()).items():
        if (counts := artifact.manifest.counts) is not None:
            fates = {"in": counts.seen, "out": counts.out, "quarantined": counts.quarantined}
            rows |= {(stage, fate, ""): number for fate, number in fates.items()}
            rows |= {(stage, "dropped", reason): number for reason, number in counts.dropped.items()}
    assert arrived == {key: rows[key] for key in arrived}
    assert {"pool", "scores/mimic"} <= {stage for stage, *_ in arrived}


@pytest.mark.parametrize("query", [query for panel in PANELS for query, _ in panel.queries])
def test_query_of_the_dashboard_answers(query: str, watched: Prometheus) -> None:
    now = time.time()
    answer = watched.get("query_range", query=query, start=str(now - 3600), end=str(now), step="5s")
    if not any(METRICS[name].series in query for name in NOT_IN_A_RUN_THAT_GOES_WELL):
        assert answer["result"], query


def test_alerts_are_evaluated_without_errors(watched: Prometheus) -> None:
    (group,) = watched.get("rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    assert {rule["name"] for rule in group["rules"] if rule["state"] == "firing"} <= {"GradsieveQuarantineShare"}
