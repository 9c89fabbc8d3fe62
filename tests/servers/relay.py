"""Passes TCP connections on, from a listening socket to wherever a function connects to, and can cut them all."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress


class Relay:
    """Relays until it is closed; listens on a port of the loopback unless it is given a socket."""

    def __init__(self, connect: Callable[[], socket.socket], server: socket.socket | None = None) -> None:
        self._connect = connect
        self._server = server or socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open: list[socket.socket] = []
        self._refusing = False
        threading.Thread(target=self._accept, daemon=True).start()

    @classmethod
    def to_port(cls, port: int, server: socket.socket | None = None) -> "Relay":
        """Before a port of the loopback."""
        return cls(lambda: socket.create_connection(("127.0.0.1", port)), server)

    def cut(self, *, seconds: float) -> None:
        """Break what is open, and refuse what comes for a while."""
        self._refusing = True
        for end in list(self._open):
            _shut(end)
        self._open.clear()
        time.sleep(seconds)
        self._refusing = False

    def close(self) -> None:
        """Take no more connections, and end those that are open."""
        _shut(self._server)
        self._server.close()
        for end in list(self._open):
            _shut(end)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self._refusing:
            client.close()
            return
        try:
            target = self._connect()
        except OSError:
            client.close()
            return
        ends = [client, target]
        self._open += ends
        back = threading.Thread(target=_pump, args=(target, client), daemon=True)
        back.start()
        _pump(client, target)
        back.join()
        for end in ends:
            if end in self._open:
                self._open.remove(end)
            end.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    _shut(source)
    _shut(sink)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):  # gone already
        end.shutdown(socket.SHUT_RDWR)
