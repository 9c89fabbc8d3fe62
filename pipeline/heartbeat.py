"""Something done every minute while a context is open, whatever the main thread waits for."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PAUSE_SECONDS = 60.0


@contextmanager
def heartbeat(beat: Callable[[], None], seconds: float = PAUSE_SECONDS) -> Iterator[None]:
    """Call `beat` every so many seconds, in a thread of its own; never again once the context is left.

    Args:
        beat: must not raise.
        seconds: between two calls.
    """
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            beat()

    thread = threading.Thread(target=run, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
