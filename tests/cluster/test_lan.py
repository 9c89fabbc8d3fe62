"""The hosts of a network of the tests' own: apart from one another but for the cable, which can be pulled."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster.lan import GATEWAY, Host, Lan, lan

_SERVE = """
import pathlib, socket
server = socket.create_server(("", 7000))
pathlib.Path("/tmp/serves").touch()
while True:
    server.accept()
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """Two hosts, each with a server at port 7000."""
    with lan(tmp_path_factory.mktemp("lan")) as made:
        for name in ("one", "two"):
            host = made.add(name)
            host.start([sys.executable, "-c", _SERVE], os.environ, subprocess.DEVNULL)
        for host in made.hosts:
            _shell(host, "until test -e /tmp/serves; do sleep 0.05; done")
        yield made


def _shell(host: Host, script: str) -> str:
    """What a script prints on a host."""
    told = host.tmp / "told"
    with told.open("wb") as sink:
        assert host.start(["sh", "-c", script], os.environ, sink).wait(60) == 0, told.read_text()
    return told.read_text().strip()


def _is_reached(net: Lan, host: Host) -> bool:
    with suppress(OSError):
        net.connect(host.address, 7000).close()
        return True
    return False


def test_hosts_have_their_own_names_processes_and_folders(net: Lan) -> None:
    one, two = net.hosts
    assert [_shell(host, "cat /proc/sys/kernel/hostname") for host in net.hosts] == ["one", "two"]
    assert _shell(two, "getent hosts one").split()[0] == one.address
    assert _shell(two, "getent hosts two").split()[0] == "127.0.1.1"
    (one.tmp / "mine").touch()
    assert _shell(one, "ls /tmp/mine") == "/tmp/mine"
    assert _shell(two, "ls /tmp/mine 2> /dev/null || echo absent") == "absent"
    assert "unshare" not in _shell(two, "cat /proc/*/cmdline | tr '\\0' ' '")
    assert len(one.runs(f"{sys.executable} -c \nimport pathlib, socket")) == 1


def test_host_whose_cable_is_pulled_is_not_reached_until_it_is_put_back(net: Lan) -> None:
    one, two = net.hosts
    assert _is_reached(net, one)
    one.unplug()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.cluster.lan.CONNECT_SECONDS", 1.0)
            assert not _is_reached(net, one)
            assert _is_reached(net, two)
    finally:
        one.plug()
    assert _is_reached(net, one)


def test_server_of_this_machine_is_reached_at_the_bridge_and_its_own_network_is_not(net: Lan) -> None:
    with net.listen(7001) as server, socket.create_server(("127.0.0.1", 0)) as own:
        reach = f"import socket; socket.create_connection(('{GATEWAY}', 7001), 10).close()"
        assert _shell(net.hosts[0], f'{sys.executable} -c "{reach}" && echo reached') == "reached"
        server.accept()[0].close()
        port = own.getsockname()[1]
        stray = f"import socket; socket.create_connection(('127.0.0.1', {port}), 3)"
        assert _shell(net.hosts[0], f'{sys.executable} -c "{stray}" 2> /dev/null || echo refused') == "refused"


def test_host_that_is_switched_off_leaves_no_process(tmp_path: Path) -> None:
    with lan(tmp_path) as net:
        host = net.add("brief")
        host.start(["sleep", "1000"], os.environ, subprocess.DEVNULL)
        while not host.runs("sleep 1000"):
            pass
        (pid,) = host.runs("sleep 1000")
        host.power_off()
        with suppress(ProcessLookupError):
            while True:
                os.kill(pid, 0)
