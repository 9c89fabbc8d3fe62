"""The tests' own eye for listening sockets sees what there is."""

import os
import socket
import subprocess
import sys

import pytest

from tests.listening import Listener, listeners

LISTEN = """
import socket, sys
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("family", "host", "loopback"),
    [
        (socket.AF_INET, "127.0.0.1", True),
        (socket.AF_INET, "0.0.0.0", False),
        (socket.AF_INET6, "::1", True),
        (socket.AF_INET6, "::", False),
    ],
)
def test_listening_socket_is_seen_with_its_address(family: socket.AddressFamily, host: str, *, loopback: bool) -> None:
    try:
        listening = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with listening:
        mine = [found for found in listeners(os.getpid()) if found.port == listening.getsockname()[1]]
    assert [(found.address, found.is_loopback) for found in mine] == [(host, loopback)]


def test_listening_child_is_seen_and_not_beside_it() -> None:
    command = [sys.executable, "-c", LISTEN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        assert port in {found.port for found in listeners(os.getpid())}
        assert {found.port for found in listeners(child.pid)} == {port}
        assert child.stdin is not None
        child.stdin.close()


def test_ipv4_address_within_ipv6_is_told_by_what_it_holds() -> None:
    assert Listener("x", "::ffff:127.0.0.1", 1).is_loopback
    assert not Listener("x", "::ffff:10.0.0.1", 1).is_loopback
