"""An HTTP proxy between a client and an S3 server that does what it was told to the next requests, then nothing.

It rewrites nothing: signatures cover the Host header, which names the proxy, and the server is given it as it came.
"""

import itertools
import socket
import socketserver
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Fault = Literal[
    "pass",
    "reset_before",  # the request is dropped before the server sees it
    "reset_after",  # the server carries the request out, the answer is lost
    "reset_mid_body",  # half of the answer's body, then a reset
    "truncated_body",  # half of the answer's body, then a regular end of the connection
    "slow_down",  # 503 SlowDown
    "internal_error",  # 500 InternalError
    "expired",  # 403 ExpiredToken
    "taken",  # 412 PreconditionFailed
    "no_upload",  # 404 NoSuchUpload
    "no_conditions",  # the server never sees the conditional headers
    "no_if_none_match",  # it sees one of the two kinds
    "not_implemented",  # 501 if the request is conditional
    "stall",  # no answer until the client gives up
    "drip",  # the answer's bytes one by one, slowly
]

_ANSWERS = {
    "slow_down": (503, "Slow Down", "SlowDown"),
    "internal_error": (500, "Internal Server Error", "InternalError"),
    "expired": (403, "Forbidden", "ExpiredToken"),
    "no_upload": (404, "Not Found", "NoSuchUpload"),
    "taken": (412, "Precondition Failed", "PreconditionFailed"),
    "not_implemented": (501, "Not Implemented", "NotImplemented"),
}
_CONDITIONS = (b"if-match", b"if-none-match")


@dataclass
class Message:
    """One HTTP message as bytes."""

    head: bytes
    body: bytes

    @property
    def start(self) -> str:
        """Request line or status line."""
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    def header(self, name: bytes) -> bytes | None:
        """Value of a header, by lower-case name."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name:
                return value.strip()
        return None

    def without(self, names: Iterable[bytes]) -> "Message":
        """The same message with some headers gone."""
        gone = tuple(names)
        lines = self.head.split(b"\r\n")
        kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in gone]
        return Message(b"\r\n".join(kept), self.body)


@dataclass
class FaultProxy:
    """Listens on a port of the loopback; `plan` and `always` say what happens to requests of some methods."""

    upstream_port: int
    requests: list[str] = field(default_factory=list)
    """Method and target of each request seen, in order."""
    access_keys: set[str] = field(default_factory=set)
    """Who signed them."""

    def __enter__(self) -> "FaultProxy":
        """Listen."""
        proxy = self
        self._lock, self._closing = threading.Lock(), threading.Event()
        self.calm()

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy._serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads, allow_reuse_address, request_queue_size = True, True, 64

            def handle_error(self, request: object, client_address: object) -> None:
                """Connections that break are the point here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening; connections that are still open end by themselves."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """URL of the proxy."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def plan(self, *faults: Fault, only: str = "") -> None:
        """Give the next requests whose start line contains `only` these faults, one each; then pass all."""
        self._faults, self._only = iter(faults), only
        self.requests.clear()

    def always(self, fault: Fault, *, only: str = "") -> None:
        """Give every request whose start line contains `only` this fault."""
        self._faults, self._only = itertools.repeat(fault), only
        self.requests.clear()

    def calm(self) -> None:
        """Pass everything."""
        self._faults, self._only = iter(()), ""
        self.requests.clear()
        self.access_keys.clear()

    def _next_fault(self, request: Message) -> Fault:
        with self._lock:
            self.requests.append(request.start.removesuffix(" HTTP/1.1"))
            self.access_keys.add(_access_key(request))
            return next(self._faults, "pass") if self._only in request.start else "pass"

    def _serve(self, client: socket.socket) -> None:
        while True:
            request = _receive(client, answer_to=None)
            if request is None:
                return
            fault = self._next_fault(request)
            if not self._carry_out(client, request, fault):
                return

    def _carry_out(self, client: socket.socket, request: Message, fault: Fault) -> bool:
        """Answer one request; whether the connection goes on."""
        conditional = any(request.header(name) is not None for name in _CONDITIONS)
        if fault == "reset_before":
            _reset(client)
            return False
        if fault == "stall":
            self._closing.wait(30)
            return False
        if fault in _ANSWERS and (fault != "not_implemented" or conditional):
            client.sendall(_error(*_ANSWERS[fault], head_only=request.start.startswith("HEAD")))
            return True
        if fault == "no_conditions":
            request = request.without(_CONDITIONS)
        if fault == "no_if_none_match":
            request = request.without([b"if-none-match"])
        answer = self._ask(request)
        return _deliver(client, answer, fault)

    def _ask(self, request: Message) -> Message:
        with socket.create_connection(("127.0.0.1", self.upstream_port), timeout=60) as server:
            server.sendall(request.without([b"expect"]).head + request.body)
            answer = _receive(server, answer_to=request)
        assert answer is not None, "the server behind the proxy gave no answer"
        return answer


def _access_key(request: Message) -> str:
    """Of a request signed by AWS's fourth version; empty if it is not signed."""
    _, _, credential = (request.header(b"authorization") or b"").partition(b"Credential=")
    return credential.split(b"/", 1)[0].decode()


def _deliver(client: socket.socket, answer: Message, fault: Fault) -> bool:
    if fault == "reset_after":
        _reset(client)
        return False
    half = answer.body[: len(answer.body) // 2]
    if fault == "reset_mid_body":
        client.sendall(answer.head + half)
        time.sleep(0.1)  # a reset overtakes what the client has not read yet
        _reset(client)
        return False
    if fault == "truncated_body":
        client.sendall(answer.head + half)
        return False
    if fault == "drip":
        for byte in answer.head + answer.body:
            client.sendall(bytes([byte]))
            time.sleep(0.02)
        return True
    client.sendall(answer.head + answer.body)
    return (answer.header(b"connection") or b"").lower() != b"close"


def _receive(connection: socket.socket, *, answer_to: Message | None) -> Message | None:
    """One whole message; None at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    message = Message(head + b"\r\n\r\n", body)
    if answer_to is not None and (answer_to.start.startswith("HEAD") or message.start.split(" ")[1] in {"204", "304"}):
        return message
    if message.header(b"expect") is not None:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if (message.header(b"transfer-encoding") or b"").lower() == b"chunked":
        return Message(message.head, _receive_chunked(connection, body))
    missing = int(message.header(b"content-length") or 0) - len(body)
    pieces = [body]
    while missing > 0:
        more = connection.recv(min(missing, 1 << 20))
        if not more:
            return None
        pieces.append(more)
        missing -= len(more)
    return Message(message.head, b"".join(pieces))


def _receive_chunked(connection: socket.socket, body: bytes) -> bytes:
    while not body.endswith(b"0\r\n\r\n"):
        more = connection.recv(65536)
        if not more:
            break
        body += more
    return body


def _error(status: int, reason: str, code: str, *, head_only: bool) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>scripted</Message></Error>".encode()
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if head_only else body)


def _reset(connection: socket.socket) -> None:
    """Close so that the other side sees a reset and no regular end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()
