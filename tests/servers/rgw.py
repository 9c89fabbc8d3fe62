"""A Ceph object store on loopback: one monitor, one OSD in memory, one gateway; real signatures and conditions."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from tests.fate import killed_with_parent

BINARIES = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "ceph-authtool", "monmaptool")
NO_RGW = "no Ceph RGW here"
PACKAGES = "radosgw ceph-mon ceph-osd ceph-common"
"""Of Debian and Ubuntu."""
_START_SECONDS = 90.0


def missing_binaries() -> list[str]:
    """Which of the needed programs are not installed."""
    return [name for name in BINARIES if shutil.which(name) is None]


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Rgw:
    """A running store; `stop` ends exactly the three processes that `start` began."""

    state: Path
    access_key: str = field(default_factory=lambda: "AK" + secrets.token_hex(8).upper())
    secret_key: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)
    port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """URL of the gateway."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Make the store and wait until it answers."""
        for folder in ("mon", "osd", "run", "log"):
            (self.state / folder).mkdir(parents=True)
        monitor, cluster = self._addresses(), str(uuid.uuid4())
        (self.state / "ceph.conf").write_text(_configuration(self.state, cluster, monitor, self.port))
        self._make_keys()
        self._tool("monmaptool", "--create", "--fsid", cluster, "--addv", "a", f"[{monitor}]", "monmap")
        self._daemon_setup("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring")
        self._daemon("ceph-mon", "-f", "-i", "a")
        self._start_osd()
        self._daemon("radosgw", "-f", "-n", "client.admin")
        self._wait_until_it_answers()
        user = ("--uid=test", "--display-name=test", f"--access-key={self.access_key}", f"--secret={self.secret_key}")
        self._tool("radosgw-admin", "-n", "client.admin", "-c", "ceph.conf", "user", "create", *user)

    def add_key(self, access: str, secret: str) -> None:
        """Give the user another key."""
        key = ("--uid=test", f"--access-key={access}", f"--secret-key={secret}")
        self._tool("radosgw-admin", "-n", "client.admin", "-c", "ceph.conf", "key", "create", *key)

    def stop(self) -> None:
        """End the processes, the gateway first; nothing in memory is worth a gentle end."""
        for process in reversed(self.processes):
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=30)
        self.processes.clear()

    def _addresses(self) -> str:
        return f"v2:127.0.0.1:{free_port()},v1:127.0.0.1:{free_port()}"

    def _make_keys(self) -> None:
        everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
        make = ("--create-keyring", "keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._tool("ceph-authtool", *make)
        self._tool("ceph-authtool", "keyring", "--gen-key", "-n", "client.admin", *everything)

    def _start_osd(self) -> None:
        identity, key = str(uuid.uuid4()), self._tool("ceph-authtool", "--gen-print-key").strip()
        answer = self._tool(
            "ceph", "-c", "ceph.conf", "osd", "new", identity, "-i", "-", stdin=f'{{"cephx_secret": "{key}"}}'
        )
        number = answer.strip()
        self._tool("ceph-authtool", "keyring", "-n", f"osd.{number}", "--add-key", key)
        self._daemon_setup("ceph-osd", "-i", number, "--mkfs", "--osd-uuid", identity)
        self._daemon("ceph-osd", "-f", "-i", number)

    def _tool(self, *command: str, stdin: str | None = None) -> str:
        result = subprocess.run(
            command, cwd=self.state, input=stdin, capture_output=True, text=True, timeout=60, env=_environment()
        )
        if result.returncode != 0:
            raise RuntimeError(f"{command[0]} exited with {result.returncode}: {result.stderr[-2000:]}")
        return result.stdout

    def _daemon_setup(self, *command: str) -> None:
        self._tool(*command, "-c", "ceph.conf")

    def _daemon(self, *command: str) -> None:
        with (self.state / "log" / f"{command[0]}.out").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    [*command, "-c", "ceph.conf"],
                    cwd=self.state,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=_environment(),
                    start_new_session=True,
                    preexec_fn=killed_with_parent,
                )
            )

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            ended = [process for process in self.processes if process.poll() is not None]
            if ended:
                raise RuntimeError(f"{ended[0].args} exited with {ended[0].returncode}; see {self.state / 'log'}")
            try:
                urllib.request.urlopen(self.endpoint, timeout=2).close()
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise RuntimeError(f"the gateway did not answer within {_START_SECONDS:.0f} s; see {self.state / 'log'}")


def _environment() -> dict[str, str]:
    """The ceph tool is a script of the system's own Python, which a virtual environment must not shadow."""
    system = ("/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AWS_", "VIRTUAL_"))}
    return {**kept, "PATH": os.pathsep.join((*system, os.environ.get("PATH", "")))}


def _configuration(state: Path, cluster: str, monitor: str, port: int) -> str:
    sections: dict[str, dict[str, object]] = {
        "global": {
            "fsid": cluster,
            "mon initial members": "a",
            "mon host": f"[{monitor}]",
            "public addr": "127.0.0.1",
            "cluster addr": "127.0.0.1",
            "keyring": state / "keyring",
            "run dir": state / "run",
            "admin socket": "",
            "pid file": "",
            "log file": state / "log" / "$name.log",
            "crash dir": state / "crash",
            "mon data avail warn": 2,
            "mon data avail crit": 1,
            "mon max pg per osd": 1000,
            "mon allow pool size one": "true",
            "osd pool default size": 1,
            "osd pool default min size": 1,
            "osd pool default pg num": 4,
            "osd pool default pg autoscale mode": "off",
            "osd crush chooseleaf type": 0,
        },
        "mon": {"mon data": state / "mon"},
        "osd": {
            "osd data": state / "osd",
            "osd objectstore": "memstore",
            "memstore device bytes": 4 << 30,
            "osd class load list": "*",
            "osd class default list": "*",
        },
        "client.admin": {
            "rgw frontends": f"beast endpoint=127.0.0.1:{port} tcp_nodelay=1",
            "rgw override bucket index max shards": 1,
            "rgw thread pool size": 32,
        },
    }
    lines = []
    for name, options in sections.items():
        lines += [f"[{name}]", *(f"{option} = {value}" for option, value in options.items()), ""]
    return "\n".join(lines)
