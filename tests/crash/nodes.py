"""A Ray cluster of several nodes on this machine, whose nodes can be drained and killed one by one."""

import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.crash.scenes import environment

RANK, MAP = "ray::RayTrainWorker", "ray::Map"
"""Titles of processes: of a rank, of a task of a data stage."""
_MIB = 1 << 20
_TRIES = 4


class Nodes:
    """A head, where the driver lives and as a rule nothing else, and workers.

    Each has a folder of its own for what Ray writes: nodes that share one delete each other's working directories of
    jobs.
    """

    def __init__(self, *, workers: int, cpus: int = 1, head_cpus: int = 0, dashboard: bool = False) -> None:
        """Start all of them; with a dashboard jobs can be submitted."""
        from ray._private.utils import write_ray_address
        from ray.cluster_utils import Cluster

        self._folders: list[str] = []
        detection = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}
        head = {
            "num_cpus": head_cpus,
            "include_dashboard": dashboard,
            "object_store_memory": 100 * _MIB,
            "temp_dir": self._folder(),
            "_system_config": detection,
        }
        if dashboard:
            # Jobs are started by a node's agent, which would be silent if its usual port were another cluster's.
            head |= {"dashboard_port": free_port(), "dashboard_agent_listen_port": free_port()}
        self._cluster = _insist(lambda: Cluster(initialize_head=True, head_node_args=head))
        write_ray_address(self.address, self._folders[0])  # a job's driver looks for it there
        self.workers: list[Any] = []
        for _ in range(workers):
            self.add(cpus=cpus)

    @property
    def address(self) -> str:
        """For `cluster.address`."""
        return str(self._cluster.address)

    @property
    def dashboard(self) -> str:
        """URL to submit jobs to."""
        return f"http://{self._cluster.head_node.address_info['webui_url']}"

    def add(self, *, cpus: int, resources: dict[str, float] | None = None) -> None:
        """One more worker."""
        worker = {"num_cpus": cpus, "object_store_memory": 100 * _MIB, "include_dashboard": False}
        worker |= {"temp_dir": self._folder()}
        self.workers.append(_insist(lambda: self._cluster.add_node(**worker, resources=resources or {})))

    def hosts_of(self, title: str) -> list[int]:
        """Indices of the workers on which a process of this title runs, such as `ray::RayTrainWorker`."""
        raylets = {raylet_of(node): index for index, node in enumerate(self.workers)}
        return sorted({raylets[parent] for _, parent in _titled(title) if parent in raylets})

    def pids_of(self, title: str) -> list[int]:
        """Processes of this title on all workers."""
        raylets = {raylet_of(node) for node in self.workers}
        return [pid for pid, parent in _titled(title) if parent in raylets]

    def head_runs(self, title: str) -> bool:
        """Whether a process of this title runs on the head."""
        return raylet_of(self._cluster.head_node) in {parent for _, parent in _titled(title)}

    def drain(self, index: int, *, seconds: int) -> None:
        """Say that a worker will be preempted in so many seconds; nothing is killed by that."""
        told = subprocess.run(
            [
                sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", self.address,
                "--node-id", self.workers[index].node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
                "--reason-message", "test", "--deadline-remaining-seconds", str(seconds),
            ],
            env=environment(), capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert told.returncode == 0, told.stdout + told.stderr

    def kill(self, index: int) -> None:
        """End a worker as a power cut would, with all that runs on it; it is none of the workers any more."""
        self._cluster.remove_node(self.workers.pop(index), allow_graceful=False)

    def shutdown(self) -> None:
        """End all nodes that are left."""
        self._cluster.shutdown()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _folder(self) -> str:
        """A new one with a short name: paths of the sockets below it end at 107 bytes."""
        self._folders.append(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))
        return self._folders[-1]


@contextmanager
def nodes(*, workers: int, cpus: int = 1, head_cpus: int = 0, dashboard: bool = False) -> Iterator[Nodes]:
    """A cluster while the context is open."""
    made = Nodes(workers=workers, cpus=cpus, head_cpus=head_cpus, dashboard=dashboard)
    try:
        yield made
    finally:
        made.shutdown()


def _insist(start: Callable[[], Any]) -> Any:
    """Ray gives a node half a minute to start, which a busy machine may not manage at once."""
    for _ in range(_TRIES - 1):
        try:
            return start()
        except Exception:  # Ray raises plain ones here
            continue
    return start()


def free_port() -> int:
    """A port at which nothing listens, below those that the system hands out of itself to others meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port


def raylet_of(node: Any) -> int:
    """Process id of a node's raylet, the parent of all that runs on it."""
    return int(node.all_processes["raylet"][0].process.pid)


def _titled(title: str) -> list[tuple[int, int]]:
    """(process id, its parent's) of all processes of this title."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if line.startswith(title):
            found.append((int(folder.name), int(fields[1])))
    return found
