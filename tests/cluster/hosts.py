"""A Ray cluster of hosts that share a network, a bucket, and nothing else: what runs on machines runs here.

The dashboard and the bucket's server are reached through relays, as by `kubectl port-forward` and over a router.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ray.util.state import list_nodes

from tests.cluster.lan import GATEWAY, Host, Lan, lan
from tests.crash.scenes import ROOT
from tests.servers.relay import Relay

RAY_PORT, DASHBOARD_PORT, STORE_PORT = 6379, 8265, 9000
STORE = f"http://{GATEWAY}:{STORE_PORT}"
"""Where the hosts find the bucket's server."""
_MEMORY = 100 << 20
_START_SECONDS = 240.0


class Hosts:
    """A head without CPUs, where drivers live, and workers with one each."""

    def __init__(self, net: Lan, environment: Mapping[str, str], detection: Mapping[str, int]) -> None:
        """Start the head.

        Args:
            net: to which hosts are added.
            environment: of all hosts; nothing of this process's own is in it.
            detection: how Ray finds out that a node is gone, as its system configuration names it.
        """
        self._net, self._environment = net, dict(environment)
        self.head = net.add("head")
        self.workers: list[Host] = []
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._relay = Relay(lambda: net.connect(self.head.address, DASHBOARD_PORT))
        dashboard = (f"--dashboard-host={self.head.address}", f"--dashboard-port={DASHBOARD_PORT}")
        system = f"--system-config={json.dumps(dict(detection))}"
        self._start(self.head, "--head", f"--port={RAY_PORT}", "--num-cpus=0", *dashboard, system)
        self._wait_for(1)

    @property
    def dashboard(self) -> str:
        """URL to submit jobs to from this machine."""
        return f"http://127.0.0.1:{self._relay.port}"

    def add(self, name: str) -> Host:
        """One more worker, which is part of the cluster when this returns."""
        self.workers.append(self._net.add(name))
        self._start(self.workers[-1], f"--address={self.head.address}:{RAY_PORT}", "--num-cpus=1")
        self._wait_for(1 + len(self.workers))
        return self.workers[-1]

    def hosts_of(self, title: str) -> list[Host]:
        """Workers on which a process of this title runs."""
        return [host for host in self.workers if host.runs(title)]

    def has_left(self, host: Host) -> bool:
        """Whether Ray on a host ended, as it does when the cluster has given the host up."""
        return self._running[host.name].poll() is not None

    def close(self) -> None:
        """Stop relaying; the hosts end with their network."""
        self._relay.close()

    def _start(self, host: Host, *words: str) -> None:
        own = (f"--node-ip-address={host.address}", f"--object-store-memory={_MEMORY}")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *own, *words]
        with (host.tmp / "ray-start.log").open("ab") as sink:
            self._running[host.name] = host.start(command, self._environment, sink)

    def _wait_for(self, number: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while self._num_alive() < number:
            for name, process in self._running.items():
                log = self._net.scratch / name / "ray-start.log"
                assert process.poll() is None, f"Ray on {name} ended:\n{log.read_text(errors='replace')[-3000:]}"
            assert time.monotonic() < deadline, f"{self._num_alive()} of {number} nodes"
            time.sleep(0.5)

    def _num_alive(self) -> int:
        try:
            found = list_nodes(address=self.dashboard, filters=[("state", "=", "ALIVE")], raise_on_missing_output=False)
        except Exception:  # Ray's client raises plain ones while the dashboard is not up
            return 0
        return len(found)


@contextmanager
def hosts(
    scratch: Path, *, workers: int, store_port: int, environment: Mapping[str, str], detection: Mapping[str, int]
) -> Iterator[Hosts]:
    """A cluster while the context is open; skips the test where no namespaces can be made.

    Args:
        scratch: folder for what the hosts write.
        workers: how many.
        store_port: of the bucket's server on this machine's loopback.
        environment: more variables of all hosts.
        detection: see `Hosts`.
    """
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
    }
    with lan(scratch) as net:
        store = Relay.to_port(store_port, net.listen(STORE_PORT))
        made = Hosts(net, {**own, **environment}, detection)
        try:
            for number in range(workers):
                made.add(f"worker{number}")
            yield made
        finally:
            made.close()
            store.close()
