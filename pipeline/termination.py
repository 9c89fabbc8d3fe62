"""SIGTERM ends a run as Ctrl-C does: workers are told, the record is written, the same command goes on."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came: a job was stopped, or its machine is being shut down."""


def end_at_sigterm() -> None:
    """Raise `Terminated` in the main thread at SIGTERM."""
    signal.signal(signal.SIGTERM, _end)


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Put back this process's handler of SIGTERM after code (Ray's start) that sets its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is _end:
            signal.signal(signal.SIGTERM, handler)


def _end(number: int, frame: FrameType | None) -> None:
    del number, frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break off the tidying up; SIGKILL still does
    raise Terminated
