"""The one way to touch bytes: local paths and s3:// URIs, whole objects, ranges and Arrow tables.

A `Storage` is a small picklable value without credentials (those come from the usual chain). It can be
narrowed to the inputs and the output that a stage declared; what lies outside is refused, so that no
stage can read what it must not know. Objects are put whole, never streamed open.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple, Protocol
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator

from pipeline.config_base import Config, placement
from pipeline.crash_points import reach
from pipeline.errors import RunError, UserError


def _without_credentials(url: str | None) -> str | None:
    parts = urlsplit(url or "http://x")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("an endpoint is a URL such as https://host or http://host:port")
    if parts.username or parts.password or parts.query:
        raise ValueError("credentials do not belong in an endpoint: give a profile, or use the usual chain")
    return url


Endpoint = Annotated[str | None, AfterValidator(_without_credentials)]


class BucketConfig(Config):
    """How one bucket is reached, where it differs from the default."""

    endpoint_url: Endpoint = placement(None)
    """URL of the S3 service that holds the bucket."""
    profile: str | None = placement(None)
    """Name of a profile of the usual credentials file."""


class StorageConfig(Config):
    """How object stores are reached; holds no secret."""

    endpoint_url: Endpoint = placement(None)
    """URL of the S3 service; without it, AWS_ENDPOINT_URL or Amazon's own."""
    buckets: dict[str, BucketConfig] = placement(default_factory=dict)
    """Exceptions by bucket name."""
    connect_timeout: float = placement(10.0, gt=0)
    """Seconds to wait for a connection."""
    read_timeout: float = placement(60.0, gt=0)
    """Seconds to wait for the next bytes."""
    call_timeout: float = placement(300.0, gt=0)
    """Seconds that one attempt of a request may take, and a second more for each MiB; no attempt begins later."""
    max_attempts: int = placement(8, ge=1)
    """How often one request is tried in all."""


class Stat(NamedTuple):
    """What a listing says of one object."""

    uri: str
    bytes: int
    version: str
    """ETag of an object, modification time in nanoseconds of a file: the cheap check of identity."""


class AlreadyExistsError(RunError):
    """A put that must not overwrite found an object of that name with other content."""


class ConflictError(RunError):
    """A compare-and-swap found other content than it expected."""


class ScopeError(RunError):
    """A stage touched what it did not declare."""


class Backend(Protocol):
    """What a kind of store must be able to do; `Storage` does the rest."""

    def read(self, uri: str, start: int, length: int | None) -> bytes:
        """Bytes [start, start + length), to the end if length is None; FileNotFoundError if absent."""

    def read_many(self, uri: str, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """`read` of each (start, length), in order; one open file serves all where there are files."""

    def stat(self, uri: str) -> Stat:
        """Size and version; FileNotFoundError if absent."""

    def list(self, uri: str, *, hidden: bool) -> list[Stat]:
        """All objects below a prefix, sorted by URI; hidden ones (`.something`) if wanted; none if it is absent."""

    def put(self, uri: str, data: bytes, *, overwrite: bool) -> None:
        """Put a whole object; FileExistsError if it exists and must not be overwritten."""

    def put_file(self, uri: str, local: Path, *, overwrite: bool) -> None:
        """Put a local file as a whole object; it may be moved there. FileExistsError as in `put`."""

    def compare_and_swap(self, uri: str, old: bytes | None, new: bytes) -> bool:
        """Replace content `old` (None: absent) by `new`; False if it found anything else."""

    def delete(self, uri: str) -> None:
        """Remove one object; absent is fine."""


def is_s3(uri: str) -> bool:
    """Whether a URI names an object in an S3 store."""
    return uri.startswith("s3://")


def absolute(uri: str) -> str:
    """An absolute local path or the s3:// URI itself, without a trailing slash.

    Raises:
        UserError: no path can be so.
    """
    if "\0" in uri:
        raise UserError("a path cannot hold a NUL character", found=repr(uri))
    return uri.rstrip("/") if is_s3(uri) else str(Path(uri).expanduser().resolve())


def join(root: str, *parts: str) -> str:
    """Append path segments to a root; segments must not climb out of it."""
    joined = "/".join([root.rstrip("/"), *(part.strip("/") for part in parts if part)])
    if any(segment == ".." for part in parts for segment in part.split("/")):
        raise ValueError(f"path {joined!r} climbs out of {root!r}")
    return joined


def relative(root: str, uri: str) -> str:
    """The part of `uri` below `root`."""
    if not uri.startswith(root.rstrip("/") + "/"):
        raise ValueError(f"{uri!r} is not below {root!r}")
    return uri[len(root.rstrip("/")) + 1 :]


@lru_cache(maxsize=8)
def _backend(config_json: str, s3: bool) -> Backend:
    from pipeline.storage_metered import MeteredBackend

    if s3:
        from pipeline.storage_s3 import S3Backend  # s3fs and its loop are paid for only where a run needs them

        return MeteredBackend(S3Backend(StorageConfig.model_validate_json(config_json)), "s3")
    from pipeline.storage_local import LocalBackend

    return MeteredBackend(LocalBackend(), "local")


@dataclass(frozen=True)
class Storage:
    """A handle on all reachable bytes, or on the declared part of them."""

    config: StorageConfig = field(default_factory=StorageConfig)
    readable: tuple[str, ...] | None = None
    """Absolute URIs that may be read, each with all below it; None: everything."""
    writable: tuple[str, ...] | None = None
    """Absolute URIs that may be written, each with all below it; None: everything."""

    def limited(self, readable: Sequence[str], writable: Sequence[str]) -> "Storage":
        """A handle that can read and write only what is named (what it may write it may also read)."""
        return replace(self, readable=(*readable, *writable), writable=tuple(writable))

    def read_bytes(self, uri: str) -> bytes:
        """The whole object."""
        return self._readable(uri).read(uri, 0, None)

    def read_range(self, uri: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`; RunError if the object ends before."""
        return _whole(self._readable(uri).read(uri, offset, length), uri, offset, length)

    def read_ranges(self, uri: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Exactly `length` bytes from `offset`, for each (offset, length); RunError if the object ends before."""
        found = self._readable(uri).read_many(uri, ranges)
        for (offset, length), data in zip(ranges, found, strict=True):
            yield _whole(data, uri, offset, length)

    def open(self, uri: str, *, buffer_size: int = 8 << 20) -> io.BufferedReader:
        """A seekable buffered reader that fetches ranges; for sequential and Parquet reads."""
        self._readable(uri)
        if not is_s3(uri):
            return io.BufferedReader(io.FileIO(uri), min(buffer_size, 1 << 20))
        return io.BufferedReader(_RangeReader(self, uri, self.stat(uri).bytes), buffer_size)

    def stat(self, uri: str) -> Stat:
        """Size and version of one object; FileNotFoundError if absent."""
        return self._readable(uri).stat(uri)

    def exists(self, uri: str) -> bool:
        """Whether one object exists."""
        try:
            self.stat(uri)
        except FileNotFoundError:
            return False
        return True

    def list(self, uri: str, *, suffix: str = "", hidden: bool = False) -> list[Stat]:
        """Objects below a prefix whose names end in `suffix`, sorted by URI; locks and parts of puts if `hidden`."""
        return [stat for stat in self._readable(uri).list(uri, hidden=hidden) if stat.uri.endswith(suffix)]

    def read_table(
        self, uri: str, columns: Sequence[str] | None = None, *, dictionaries: Sequence[str] = ()
    ) -> pa.Table:
        """A Parquet file as an Arrow table; columns of `dictionaries` as such."""
        with self.open(uri) as source:
            parquet = open_parquet(source, dictionaries=dictionaries)
            return parquet.read(columns=list(columns) if columns is not None else None)

    def put_once(self, uri: str, data: bytes) -> None:
        """Put an object that never changes; the same bytes already there are fine.

        Raises:
            AlreadyExistsError: other bytes are there.
        """
        try:
            self._writable(uri).put(uri, data, overwrite=False)
            reach("after", uri)
        except FileExistsError:
            if self.read_bytes(uri) != data:
                raise AlreadyExistsError(
                    "an immutable object exists with other content",
                    where=uri,
                    expected=f"the same {len(data)} bytes",
                    next_step="it is damaged, or other versions or hardware made it; remove it, or use another `store`",
                ) from None

    def put(self, uri: str, data: bytes) -> None:
        """Put an object, whatever was there."""
        self._writable(uri).put(uri, data, overwrite=True)
        reach("after", uri)

    def put_file(self, uri: str, local: Path, *, overwrite: bool = True) -> None:
        """Put a local file whole; without `overwrite`, FileExistsError if the name is taken.

        The file may be gone afterwards, whatever happens: on the same disk it is moved, not copied.
        """
        self._writable(uri).put_file(uri, local, overwrite=overwrite)
        reach("after", uri)

    def compare_and_swap(self, uri: str, old: bytes | None, new: bytes) -> None:
        """Replace `old` (None: absent) by `new`.

        Raises:
            ConflictError: something else was there.
        """
        if not self._writable(uri).compare_and_swap(uri, old, new):
            raise ConflictError(
                "object changed while it was being replaced",
                where=uri,
                next_step="another run writes here; wait for it and run again",
            )
        reach("after", uri)

    def delete(self, uri: str) -> None:
        """Remove one object; absent is fine."""
        self._writable(uri).delete(uri)

    def _readable(self, uri: str) -> Backend:
        return self._checked(uri, self.readable, "read")

    def _writable(self, uri: str) -> Backend:
        backend = self._checked(uri, self.writable, "write")
        reach("before", uri)
        return backend

    def _checked(self, uri: str, scope: tuple[str, ...] | None, verb: str) -> Backend:
        if scope is not None and not any(uri == root or uri.startswith(root.rstrip("/") + "/") for root in scope):
            raise ScopeError(f"a stage may not {verb} what it did not declare", where=uri, expected=", ".join(scope))
        return _backend(self.config.model_dump_json(), is_s3(uri))


def _whole(data: bytes, uri: str, offset: int, length: int) -> bytes:
    if len(data) != length:
        raise RunError(
            "object is shorter than its index says",
            where=uri,
            expected=f"{length} bytes at offset {offset}",
            found=f"{len(data)} bytes",
            next_step="the file changed after it was indexed; run again to index it anew",
        )
    return data


def open_parquet(source: BinaryIO, *, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """A Parquet file whose pages are checked against their checksums as they are read, where it has them (ours do)."""
    return pq.ParquetFile(source, page_checksum_verification=True, read_dictionary=list(dictionaries))


class _RangeReader(io.RawIOBase):
    """Seekable raw reader over ranged gets; `io.BufferedReader` gives it its read-ahead."""

    def __init__(self, storage: Storage, uri: str, size: int) -> None:
        self._storage, self._uri, self._size, self._position = storage, uri, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]  # typeshed wants WriteableBuffer
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        data = self._storage.read_range(self._uri, self._position, length)
        buffer[:length] = data
        self._position += length
        return length
