"""A cluster that runs already: connected to by its address, left alive; one that does not answer is refused at once."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.errors import UserError
from pipeline.progress import Reporter

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}

HEAD = """
import logging, sys
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
print(ray.get_runtime_context().gcs_address, ray.get_runtime_context().get_node_id(), flush=True)
for _ in sys.stdin:
    print(len(ray.nodes()), ray.nodes()[0]["Alive"], flush=True)
"""

DRIVER = """
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.progress import Reporter

def node(_):
    import ray
    return ray.get_runtime_context().get_node_id()

engine = Engine(ClusterConfig(), Reporter())
engine.preflight()
print(*set(engine.map(node, range(3), name="where")), flush=True)
engine.shutdown()
"""


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """(process, address, node id) of a Ray of its own; it says how many nodes live whenever it gets a line."""
    command = [sys.executable, "-c", HEAD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        address, node = process.stdout.readline().split()
        yield process, address, node
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.ray
def test_work_runs_on_the_cluster_that_the_environment_names_and_leaves_it_alive(
    head: tuple[subprocess.Popen[str], str, str],
) -> None:
    process, address, node = head
    environment = {**ENVIRONMENT, "RAY_ADDRESS": address}
    command = [sys.executable, "-c", DRIVER]
    driver = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert driver.returncode == 0, driver.stderr
    assert driver.stdout.split() == [node]
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("still there?\n")
    process.stdin.flush()
    assert process.stdout.readline().split() == ["1", "True"]


SILENT = """
import sys
from pipeline import engine_errors
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.errors import RunError
from pipeline.progress import Reporter

engine_errors.ANSWER_SECONDS, engine_errors._TELL_SECONDS = 4.0, 1.0
try:
    Engine(ClusterConfig(address=sys.argv[1], auth_mode="disabled"), Reporter()).ensure_ray()
except RunError as error:
    print(error)
"""


def test_cluster_that_takes_connections_and_never_answers_is_given_up_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-c", SILENT, address]
        waited = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "the Ray cluster does not answer" in waited.stdout, waited.stderr
    assert f"ray status --address {address}" in waited.stdout
    assert f"waiting for the Ray cluster at {address} to answer, for 1 s" in waited.stderr


@pytest.mark.parametrize("form", ["{}", "ray://{}"])
def test_address_at_which_nothing_listens_is_refused_before_work(form: str) -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        address = form.format(f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(UserError, match="no Ray cluster lets this run in") as refused:
            Engine(ClusterConfig(address=address), Reporter()).preflight()
    for part in (address, "cluster.address", "RAY_ADDRESS"):
        assert part in str(refused.value)


def test_address_is_the_configurations_else_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert Engine(ClusterConfig(), Reporter()).address == "10.0.0.1:6379"
    assert Engine(ClusterConfig(address="10.0.0.2:6379"), Reporter()).address == "10.0.0.2:6379"
    assert Engine(ClusterConfig(executor="in_process"), Reporter()).address is None
    monkeypatch.delenv("RAY_ADDRESS")
    assert Engine(ClusterConfig(), Reporter()).address is None


@pytest.mark.parametrize("address", [None, "auto", "local"])
def test_address_without_a_port_is_left_to_ray(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    Engine(ClusterConfig(address=address), Reporter()).preflight()
