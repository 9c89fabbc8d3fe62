"""Counts requests as an object store would be asked, while the bytes lie on the local disk."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.storage import Stat
from pipeline.storage_local import LocalBackend
from pipeline.traffic import LIST_PAGE, Traffic


class CountedStore(LocalBackend):
    """A store of whole objects and ranges."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self.asked: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        """Requests for bytes, by URI."""

    @property
    def traffic(self) -> Traffic:
        """What was asked until now."""
        return Traffic(self.asked["bytes"], self.asked["gets"], self.asked["puts"])

    def read(self, uri: str, start: int, length: int | None) -> bytes:
        data = super().read(uri, start, length)
        self.asked.update(gets=1, bytes=len(data))
        self.reads[uri] += 1
        return data

    def read_many(self, uri: str, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        return (self.read(uri, start, length) for start, length in ranges)

    def opened(self, folder: Path) -> set[str]:
        """Files below a folder of which anything was read, relative to it."""
        return {str(Path(uri).relative_to(folder)) for uri in self.reads if uri.startswith(f"{folder}/")}

    def stat(self, uri: str) -> Stat:
        self.asked.update(gets=1)
        return super().stat(uri)

    def list(self, uri: str, *, hidden: bool) -> list[Stat]:
        found = super().list(uri, hidden=hidden)
        self.asked.update(puts=max(1, -(-len(found) // LIST_PAGE)))
        return found

    def put(self, uri: str, data: bytes, *, overwrite: bool) -> None:
        self.asked.update(puts=1, written=len(data))
        super().put(uri, data, overwrite=overwrite)

    def put_file(self, uri: str, local: Path, *, overwrite: bool) -> None:
        self.asked.update(puts=1, written=local.stat().st_size)
        super().put_file(uri, local, overwrite=overwrite)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[CountedStore]:
    """Within it every file is read as an object is: by requests of its own, without a page cache's help."""
    store = CountedStore()
    with monkeypatch.context() as patched:
        patched.setattr(storage, "_backend", lambda config, s3: store)
        patched.setattr(storage, "is_s3", lambda uri: True)
        yield store
