"""SIGTERM ends a run as Ctrl-C does: workers are told, the record is written, the same command goes on.

Work that can save itself first asks for time to do so with `time_to_save`. A call that would hear no signal before it
returns goes `aside`.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Value = TypeVar("Value")

_LOOK_SECONDS = 0.5


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


@contextmanager
def time_to_save(seconds: float) -> Iterator[threading.Event]:
    """Within it SIGTERM only sets the event that is yielded; `Terminated` comes when the work is left.

    Work that does not leave within `seconds`, or is told a second time, is broken off where it is. Does nothing in a
    process that has not called `end_at_sigterm`.

    Args:
        seconds: that may pass between SIGTERM and the end.

    Raises:
        Terminated: SIGTERM came, and the work left of itself or was broken off.
    """
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not _end:
        yield told
        return
    main = threading.main_thread().ident
    assert main is not None
    overdue = threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGTERM))
    overdue.daemon = True

    def tell(number: int, frame: FrameType | None) -> None:
        if told.is_set():
            _end(number, frame)
        told.set()
        overdue.start()

    signal.signal(signal.SIGTERM, tell)
    try:
        yield told
    finally:
        overdue.cancel()
        signal.signal(signal.SIGTERM, signal.SIG_IGN if told.is_set() else _end)
    if told.is_set():
        raise Terminated


def aside(call: Callable[[], Value], *, while_waiting: Callable[[], None] = lambda: None) -> Value:
    """Call in another thread, so that this one hears signals, and wait for it.

    Args:
        call: what may not hear a signal, or would take Ctrl-C for itself.
        while_waiting: is called about twice a second; what it raises ends the wait, and leaves the call to itself.

    Raises:
        BaseException: what the call raised.
    """
    outcome: list[Value] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # raised again where the caller waits
            failure.append(error)

    thread = threading.Thread(target=run, name="aside", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_SECONDS)
        while_waiting()
    if failure:
        raise failure[0]
    return outcome[0]


def _end(number: int, frame: FrameType | None) -> None:
    del number, frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break off the tidying up; SIGKILL still does
    raise Terminated
