"""A new local file that goes to the disk while it is being written, so that little is left to wait for at its end."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_BUFFER = 1 << 20
SYNC_BYTES = 32 << 20
"""Written between two requests to the disk; one is under way at most."""


class BehindFile:
    """Takes bytes; a thread waits for the disk meanwhile."""

    def __init__(self, path: Path, waiting: ThreadPoolExecutor) -> None:
        """Create the file."""
        self._file = path.open("wb", buffering=_BUFFER)
        self._waiting = waiting
        self._sync: Future[None] | None = None
        self._since = 0

    def write(self, data: bytes) -> None:
        """Append; OSError also of what was written before and could not be stored."""
        self._file.write(data)
        self._since += len(data)
        if self._since >= SYNC_BYTES and (self._sync is None or self._sync.done()):
            self._settle()
            self._file.flush()
            self._sync = self._waiting.submit(os.fdatasync, self._file.fileno())
            self._since = 0

    def close(self) -> None:
        """Wait for the disk as far as it was asked; whoever publishes the file asks for the rest."""
        try:
            self._settle()
        finally:
            self._file.close()

    def _settle(self) -> None:
        if self._sync is not None:
            self._sync.result()


@contextmanager
def write_behind(path: Path) -> Iterator[BehindFile]:
    """A new file at this path, closed at the end."""
    with ThreadPoolExecutor(1, "sync") as waiting:
        file = BehindFile(path, waiting)
        try:
            yield file
        finally:
            file.close()
