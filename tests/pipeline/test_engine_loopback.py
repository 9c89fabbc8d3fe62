"""Embedded, no process of Ray can be reached from another machine: told by the kernel's table of open ports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine_loopback import CLUSTERS, loopback_alone
from tests.listening import Listener

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}

RUN = """
import json, os, sys, time
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.progress import Reporter
from tests.listening import listeners

def work(_):
    import time
    time.sleep(0.5)
    return 1

if sys.argv[1] == "ray first":
    import ray
    import ray._private.services
engine = Engine(ClusterConfig(num_cpus=2), Reporter())
for attempt in range(4):  # Ray gives itself half a minute to start, which a busy machine may not manage at once
    try:
        assert sum(engine.map(work, range(4), name="work")) == 4
        break
    except Exception:
        if attempt == 3:
            raise
import ray
@ray.remote
class Actor:
    def pid(self):
        return os.getpid()
actors = [Actor.options(num_cpus=0).remote() for _ in range(2)]
ray.get([actor.pid.remote() for actor in actors])
print(json.dumps([list(found) for found in listeners(os.getpid())]), flush=True)
print(json.dumps([ray.util.get_node_ip_address(), os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")]), flush=True)
engine.shutdown()
"""


def _run(*, ray_first: bool = False, **environment: str) -> tuple[set[Listener], str, str | None, str]:
    """(what listens, address of the node, the variable afterwards, what was told) of an embedded Ray."""
    command = [sys.executable, "-c", RUN, "ray first" if ray_first else "-"]
    ran = subprocess.run(
        command, env={**ENVIRONMENT, **environment}, cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert ran.returncode == 0, ran.stderr
    sockets, rest = ran.stdout.splitlines()
    address, variable = json.loads(rest)
    return {Listener(*found) for found in json.loads(sockets)}, address, variable, ran.stderr


@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("ray_first", [False, True])
def test_embedded_ray_listens_at_loopback_alone_and_leaves_the_environment_as_it_was(*, ray_first: bool) -> None:
    found, address, variable, told = _run(ray_first=ray_first)
    for process in ("gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::Actor"):
        assert any(process in listener.process for listener in found), f"{process} was not seen"
    assert sorted(listener for listener in found if not listener.is_loopback) == []
    assert (address, variable) == ("127.0.0.1", None)
    assert "open to whoever" not in told


@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ray_that_was_opened_by_whoever_starts_the_run_says_so_aloud() -> None:
    found, address, variable, told = _run(**{CLUSTERS: "1"})
    if address == "127.0.0.1":
        pytest.skip("this machine has no other address")
    assert any(not listener.is_loopback for listener in found)
    assert f"Ray listens at {address}, open to whoever reaches this machine" in told
    assert variable == "1"


@pytest.mark.parametrize("known", [True, False])
def test_whether_ray_may_form_clusters_is_as_before_even_after_an_error(
    *, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import ray_constants

    monkeypatch.delenv(CLUSTERS, raising=False)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", known)
    inside = []

    def start_that_fails() -> None:
        with loopback_alone():
            inside.append((os.environ[CLUSTERS], ray_constants.ENABLE_RAY_CLUSTER))
            raise KeyError

    with pytest.raises(KeyError):
        start_that_fails()
    assert inside == [("0", False)]
    assert CLUSTERS not in os.environ
    assert ray_constants.ENABLE_RAY_CLUSTER is known


def test_environment_that_says_otherwise_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants

    monkeypatch.setenv(CLUSTERS, "1")
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    with loopback_alone():
        assert os.environ[CLUSTERS] == "1"
        assert ray_constants.ENABLE_RAY_CLUSTER is True


DYING = """
import os, signal, time
from pathlib import Path
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.errors import RunError
from pipeline.progress import Reporter

engine = Engine(ClusterConfig(num_cpus=1), Reporter())
engine.check_embedded()
engine.ensure_ray()
engine.check_embedded()
(raylet,) = [
    int(path.name)
    for path in Path("/proc").iterdir()
    if path.name.isdigit()
    and (path / "cmdline").read_bytes().split(b"\\0")[0].endswith(b"/raylet")
    and f"PPid:\\t{os.getpid()}\\n" in (path / "status").read_text()
]
os.kill(raylet, signal.SIGKILL)
time.sleep(0.5)
try:
    engine.check_embedded()
except RunError as error:
    engine.shutdown()
    print(error, flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="finds the raylet in /proc")
def test_embedded_ray_that_died_is_told_at_once() -> None:
    environment = {**ENVIRONMENT, "RAY_AUTH_MODE": "disabled"}
    ended = subprocess.run(
        [sys.executable, "-c", DYING], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert "the Ray cluster is gone" in ended.stdout, ended.stderr
