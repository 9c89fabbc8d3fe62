"""Machines on a network of their own: Linux namespaces joined by a bridge, whose cables can be pulled.

Each host has its own network, processes, name, `/tmp` and shared memory; the rest of the disk they share. The bridge
lies in a namespace too, so this machine's own network is never touched, and all is gone with the processes.
"""

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

import pytest

from tests.crash.scenes import ROOT
from tests.fate import killed_with_parent

GATEWAY = "10.77.0.1"
"""Of the bridge."""
_HOST = "10.77.0.{}"
_FIRST = 10
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
CONNECT_SECONDS = 30.0
_START_SECONDS = 60.0
_ALONE = ("--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
_INIT = """
import os, time
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.2)
"""
_SET_UP = """
set -e
echo "$1" > /proc/sys/kernel/hostname
mount --bind "$2" /etc/hosts
mount --bind /dev/null /etc/resolv.conf
mount --bind "$3" /tmp
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
touch /tmp/.up
exec "$4" -c "$5"
"""


@cache
def no_lan_here() -> str | None:
    """Why namespaces cannot be made on this machine; None where they can."""
    missing = [name for name in ("unshare", "nsenter", "ip", "mount") if shutil.which(name) is None]
    if missing:
        return f"not found: {', '.join(missing)} (Debian: util-linux, iproute2)"
    if {Path("/tmp")} & {*ROOT.parents, *Path(sys.prefix).parents}:
        return "this checkout or its environment lies in /tmp, of which each host has one of its own"
    probe = 'mount -t tmpfs tmpfs /dev/shm && ip link add probe type veth && echo probe > "/proc/sys/kernel/hostname"'
    tried = subprocess.run(["unshare", *_ALONE, "sh", "-c", probe], capture_output=True, text=True, timeout=60)
    if tried.returncode:
        return f"needs the right to make network namespaces (root): {(tried.stderr.strip() or 'refused')[:200]}"
    return None


@dataclass
class Host:
    """One machine."""

    name: str
    address: str
    tmp: Path
    """Its `/tmp`, as this machine sees it."""
    switch: int
    holder: "subprocess.Popen[bytes]"
    init: int
    """Process id of its first process, as this machine counts."""

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], sink: IO[bytes]
    ) -> "subprocess.Popen[bytes]":
        """Start a command there, in its `/tmp`."""
        inside = ["nsenter", "-t", str(self.init), "-n", "-m", "-u", "-p", "--", "env", "-C", "/tmp", *command]
        return subprocess.Popen(
            inside, env=dict(environment), stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
        )

    def unplug(self) -> None:
        """Pull its cable: what is open stays open, and nothing arrives."""
        _in_network(self.switch, "ip", "link", "set", self.name, "down")

    def plug(self) -> None:
        """Put the cable back."""
        _in_network(self.switch, "ip", "link", "set", self.name, "up")

    def power_off(self) -> None:
        """End all that runs there, at once."""
        self.holder.kill()
        self.holder.wait()

    def runs(self, title: str) -> list[int]:
        """Processes there whose command line begins so, by their ids on this machine."""
        space = _namespace(self.init)
        return [pid for pid, line in _processes() if line.startswith(title) and _namespace(pid) == space]


@dataclass
class Lan:
    """Hosts, and the bridge between them."""

    scratch: Path
    hosts: list[Host] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._switch = _started(["unshare", "--net", "sleep", "infinity"])
        _wait_until(lambda: _namespace(self._switch.pid) != _namespace(os.getpid()), self._switch, "the bridge")
        for words in (
            ("ip", "link", "set", "lo", "up"),
            ("ip", "link", "add", "lan", "type", "bridge", "forward_delay", "0"),
            ("ip", "addr", "add", f"{GATEWAY}/24", "dev", "lan"),
            ("ip", "link", "set", "lan", "up"),
        ):
            _in_network(self._switch.pid, *words)

    def add(self, name: str) -> Host:
        """One more host; it knows those before it by name, and itself as Debian has it: at an address of loopback."""
        address = _HOST.format(_FIRST + len(self.hosts))
        known = "".join(f"{host.address} {host.name}\n" for host in self.hosts)
        names = self.scratch / f"{name}.hosts"
        names.write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n{known}")
        tmp = self.scratch / name
        tmp.mkdir()
        set_up = ["sh", "-c", _SET_UP, "sh", name, str(names), str(tmp), sys.executable, _INIT]
        holder = _started(["unshare", *_ALONE, *set_up])
        _wait_until((tmp / ".up").exists, holder, f"host {name}")
        init = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0])
        plug = ("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(init))
        _in_network(self._switch.pid, *plug)
        _in_network(self._switch.pid, "ip", "link", "set", name, "master", "lan", "up")
        _in_network(init, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
        _in_network(init, "ip", "link", "set", "eth0", "up")
        _in_network(init, "ip", "route", "add", "default", "via", GATEWAY)
        self.hosts.append(Host(name, address, tmp, self._switch.pid, holder, init))
        return self.hosts[-1]

    def listen(self, port: int) -> socket.socket:
        """A listening socket at the bridge, for a server on this machine."""
        return _made_there(self._switch.pid, lambda: socket.create_server((GATEWAY, port)))

    def connect(self, address: str, port: int) -> socket.socket:
        """A connection from the bridge to a host."""
        return _made_there(self._switch.pid, lambda: socket.create_connection((address, port), timeout=CONNECT_SECONDS))

    def close(self) -> None:
        """End all hosts."""
        for host in self.hosts:
            host.power_off()
        self._switch.kill()
        self._switch.wait()


@contextmanager
def lan(scratch: Path) -> Iterator[Lan]:
    """A network without hosts; all that are added end with it. Skips the test where there can be none."""
    if reason := no_lan_here():
        pytest.skip(f"no hosts in namespaces here: {reason}")
    made = Lan(scratch)
    try:
        yield made
    finally:
        made.close()


def _made_there(pid: int, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket belongs for good to the network in which it was made, whoever uses it: a thread goes there for it."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def visit() -> None:
        try:
            with Path(f"/proc/{pid}/ns/net").open() as space:
                if _LIBC.setns(space.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "cannot enter the network")
            made.append(make())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=visit)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def _in_network(pid: int, *command: str) -> None:
    told = subprocess.run(["nsenter", "-t", str(pid), "-n", *command], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, f"{' '.join(command)}: {told.stderr}"


def _started(command: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=killed_with_parent)


def _wait_until(condition: Callable[[], bool], process: "subprocess.Popen[bytes]", wanted: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not condition():
        assert process.poll() is None, f"{wanted} did not start"
        assert time.monotonic() < deadline, f"{wanted} is not up"
        time.sleep(0.02)


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:  # it has ended
        return ""


def _processes() -> list[tuple[int, str]]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found.append((int(folder.name), line))
    return found
