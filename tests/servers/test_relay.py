"""The relay passes bytes both ways, refuses while it is cut, and lets a closed side be seen as closed."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.servers.relay import Relay


@pytest.fixture
def relay() -> Iterator[Relay]:
    """Before a server that answers each message in upper case."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_shout, args=(server,), daemon=True).start()
    made = Relay.to_port(server.getsockname()[1])
    yield made
    made.close()
    server.close()


def _shout(server: socket.socket) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client:
            while data := client.recv(100):
                client.sendall(data.upper())


def _answer(relay: Relay) -> bytes:
    with socket.create_connection(("127.0.0.1", relay.port), timeout=10) as client:
        client.sendall(b"hello")
        return client.recv(100)


def test_bytes_go_both_ways_on_one_connection_after_the_other(relay: Relay) -> None:
    assert [_answer(relay) for _ in range(3)] == [b"HELLO"] * 3


def test_cut_breaks_what_is_open_and_refuses_until_it_is_over(relay: Relay) -> None:
    with socket.create_connection(("127.0.0.1", relay.port), timeout=10) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
        cutting = threading.Thread(target=relay.cut, kwargs={"seconds": 1.0})
        cutting.start()
        assert client.recv(100) == b""
    with socket.create_connection(("127.0.0.1", relay.port), timeout=10) as refused:
        assert refused.recv(100) == b""
    cutting.join()
    assert _answer(relay) == b"HELLO"


def test_nobody_behind_the_relay_is_seen_as_a_closed_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    relay = Relay.to_port(port)
    with socket.create_connection(("127.0.0.1", relay.port), timeout=10) as client:
        assert client.recv(100) == b""
    relay.close()
