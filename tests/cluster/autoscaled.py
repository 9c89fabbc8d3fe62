"""A Ray cluster that starts nodes when they are asked for, by Ray's own autoscaler, as processes on this machine.

Ray's `AutoscalingCluster` does the same, but its wheel lacks a file that it reads, and it ends every Ray on the machine
before it begins; so the head is started here, with the same provider of nodes.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.util.state import list_nodes

from tests.crash.nodes import free_port
from tests.crash.scenes import environment, kill_session
from tests.fate import told_with_parent

_PROVIDER = "tests.cluster.local_nodes.LocalNodes"
_HEAD_TYPE = "ray.head.default"
_NO_COMMANDS = ("setup_commands", "head_setup_commands", "worker_setup_commands", "cluster_synced_files")
"""Ray has no defaults for a provider that is not its own."""
_MEMORY = 100 << 20
_NODE_MEMORY = 4 << 30
"""Tasks reserve some: a type that declares none is started for nobody."""
_START_SECONDS = 120.0
_TRIES = 4


def configuration(node_types: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What `ray start --autoscaling-config` reads: a head without CPUs, and none of each other type to begin with.

    Args:
        node_types: resources of a node, by the type's name.
    """
    types: dict[str, Any] = {_HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
    for name, resources in node_types.items():
        memory = {"memory": _NODE_MEMORY, "object_store_memory": _MEMORY}
        types[name] = {"resources": {**resources, **memory}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    return {
        "cluster_name": "gradsieve-test",
        "max_workers": 4,
        "idle_timeout_minutes": 10,
        "provider": {
            "type": "external",
            "module": _PROVIDER,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": _HEAD_TYPE,
        "available_node_types": types,
        **{key: [] for key in _NO_COMMANDS},
        "file_mounts": {},
    }


class Autoscaled:
    """A head in a process of its own; its nodes are children of its autoscaler."""

    def __init__(self, node_types: Mapping[str, Mapping[str, float]]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))  # sockets have short names
        port, dashboard = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        self._dashboard = f"http://127.0.0.1:{dashboard}"
        asked = configuration(node_types)
        asked["provider"]["gcs_address"] = self.address
        (self._folder / "autoscaling.json").write_text(json.dumps(asked))
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
            f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}",
            f"--temp-dir={self._folder}", "--num-cpus=0", f"--object-store-memory={_MEMORY}",
            f"--autoscaling-config={self._folder / 'autoscaling.json'}",
        ]  # fmt: skip
        own = {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
        with (self._folder / "start.log").open("wb") as sink:
            self._process = subprocess.Popen(
                command,
                env=environment(own),
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=told_with_parent,
            )

    def is_up(self) -> bool:
        """Wait for the head; False where it ended or took too long."""
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if self.node_types():
                return True
            time.sleep(0.5)
        return False

    def node_types(self) -> dict[str, str]:
        """Type of each living node by its id; nothing while the dashboard is not up."""
        try:
            found = list_nodes(address=self._dashboard, filters=[("state", "=", "ALIVE")], detail=True)
        except Exception:  # Ray's client raises plain ones
            return {}
        return {node.node_id: _type_of(node.resources_total) for node in found}

    def log(self) -> str:
        """What the head and the autoscaler printed last."""
        files = [self._folder / "start.log", *self._folder.glob("session_latest/logs/monitor.*")]
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in files if path.is_file())

    def end(self) -> None:
        """End the head and all nodes."""
        session = self._process.pid
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        kill_session(session)
        shutil.rmtree(self._folder, ignore_errors=True)


def _type_of(resources: Mapping[str, float]) -> str:
    """The resource of its own that a node declares, which is named as its type is; empty for the head."""
    return next((name for name in resources if name.endswith("_node")), "")


@contextmanager
def autoscaled(node_types: Mapping[str, Mapping[str, float]]) -> Iterator[Autoscaled]:
    """Such a cluster while the context is open; each type has a resource of its own that is called as it is."""
    for _ in range(_TRIES):  # Ray gives itself half a minute to start, which a busy machine may not manage at once
        made = Autoscaled(node_types)
        try:
            if made.is_up():
                yield made
                return
            told = made.log()
        finally:
            made.end()
    raise AssertionError(f"Ray did not start:\n{told}")
