"""Ranks on an embedded Ray: what they listen at while they train."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.train.rendezvous import interface_at
from tests.listening import Listener

ROOT = Path(__file__).parents[3]

TRAIN = """
import json, os, sys, threading
from pathlib import Path
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.progress import Reporter
from tests.listening import listeners
from tests.stages.train.test_launch import train
from tests.stages.train.test_stage import recipe
from tests.stages.train.tiny_pool import make_pool

root = Path(sys.argv[1])
engine = Engine(ClusterConfig(num_cpus=6), Reporter())
for attempt in range(4):  # Ray gives itself half a minute to start, which a busy machine may not manage at once
    try:
        engine.ensure_ray()
        break
    except Exception:
        if attempt == 3:
            raise
found, done = set(), threading.Event()
def watch():
    while not done.wait(0.3):
        found.update(listeners(os.getpid()))
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
artifact = train(root / "run", make_pool(root / "pool", [11, 7, 13]), recipe(num_workers=2, epochs=2), engine)
done.set()
watcher.join()
print(json.dumps([[list(listener) for listener in found], artifact.manifest.content]))
engine.shutdown()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the addresses of interfaces")
def test_interface_is_found_by_its_address_and_none_by_an_address_that_is_not_here() -> None:
    assert interface_at("127.0.0.1") == "lo"
    assert interface_at("203.0.113.7") is None
    assert interface_at("::1") is None


@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_ranks_of_an_embedded_ray_listen_at_loopback_alone(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", TRAIN, str(tmp_path)]
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr
    sockets, _ = json.loads(ran.stdout.splitlines()[-1])
    found = {Listener(*socket) for socket in sockets}
    ranks = [one for one in found if one.process.startswith(("ray::RayTrainWorker", "ray::execute"))]
    assert any(one.address == "127.0.0.1" for one in ranks)  # gloo; Ray itself listens at ::ffff:127.0.0.1
    assert sorted(listener for listener in found if not listener.is_loopback) == []
