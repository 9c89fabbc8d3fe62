"""A store whose bytes are counted, by operation, for those who watch a run."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.metrics import count
from pipeline.storage import Backend, Stat


class MeteredBackend:
    """The same store; what succeeded is counted."""

    def __init__(self, backend: Backend, store: str) -> None:
        """`store` says its kind: s3 or local."""
        self._backend, self._store = backend, store

    def read(self, uri: str, start: int, length: int | None) -> bytes:
        """See `Backend`, as all others here."""
        data = self._backend.read(uri, start, length)
        self._count("read", len(data))
        return data

    def read_many(self, uri: str, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        num_bytes = 0
        try:
            for data in self._backend.read_many(uri, ranges):
                num_bytes += len(data)
                yield data
        finally:
            self._count("read", num_bytes)

    def stat(self, uri: str) -> Stat:
        return self._backend.stat(uri)

    def list(self, uri: str, *, hidden: bool) -> list[Stat]:
        return self._backend.list(uri, hidden=hidden)

    def put(self, uri: str, data: bytes, *, overwrite: bool) -> None:
        self._backend.put(uri, data, overwrite=overwrite)
        self._count("put", len(data))

    def put_file(self, uri: str, local: Path, *, overwrite: bool) -> None:
        num_bytes = local.stat().st_size
        self._backend.put_file(uri, local, overwrite=overwrite)
        self._count("put", num_bytes)

    def compare_and_swap(self, uri: str, old: bytes | None, new: bytes) -> bool:
        swapped = self._backend.compare_and_swap(uri, old, new)
        self._count("swap", len(new) if swapped else 0)
        return swapped

    def delete(self, uri: str) -> None:
        self._backend.delete(uri)

    def _count(self, operation: str, num_bytes: int) -> None:
        count("store_bytes", num_bytes, operation=operation, store=self._store)
