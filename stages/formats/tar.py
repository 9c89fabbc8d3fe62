"""Shards as tar files: samples in them, one sample's members, and archives whose bytes depend on content alone.

A sample is a run of members with the same key: folder and base name up to its first dot (webdataset's rule).
"""

import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from pipeline.errors import RunError
from stages.formats.tar_headers import (
    BLOCK,
    MAX_SAMPLE_BYTES,
    BrokenTarError,
    Entry,
    Source,
    entries_of,
    header_sum,
    padded,
    read_entries,
)

_RECORD = 20 * BLOCK
_MODE = 0o444


class Member(NamedTuple):
    """One file of a sample."""

    name: str
    ext: str
    """What follows the first dot of the base name, in lower case."""
    offset: int
    """Of its data, in the archive."""
    size: int
    data: bytes


class Fault(NamedTuple):
    """Why a sample, or the rest of an archive, cannot be used."""

    reason: str
    offset: int
    member: str
    detail: str


class Sample(NamedTuple):
    """A run of members with one key, or the place where an archive cannot be read on (then without members)."""

    key: str
    offset: int
    """Of its first header."""
    length: int
    """Through the padded end of its last member."""
    members: tuple[Member, ...]
    fault: Fault | None = None

    @property
    def is_place(self) -> bool:
        """Whether this is no sample but the place where the archive ends."""
        return self.length == 0


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension of a member's name; None for what belongs to no sample (no extension, hidden files)."""
    folder, slash, base = name.rpartition("/")
    stem, _, ext = base.partition(".")
    return (folder + slash + stem, ext.lower()) if stem and ext else None


class ShardReader:
    """Samples of one shard, in order; never raises for what is in the file."""

    def __init__(self, source: Source) -> None:
        """Nothing is read yet; `source` is read once, forwards."""
        self._source = source
        self.num_ignored = 0
        """Members that belong to no sample, so far."""
        self.end: Fault | None = None
        """Why the shard could not be read to a proper end, once it was."""

    def __iter__(self) -> Iterator[Sample]:
        """Each run of members, with a fault if it cannot be used.

        The last one may be a place instead of a sample: without members, its fault says why the archive ends there
        (`no_end_marker`: after a whole member, so that nothing needs to be lost).
        """
        run: _Run | None = None
        keys: set[str] = set()
        try:
            for entry in read_entries(self._source):
                key = self._key(entry)
                if key is None:
                    continue
                if run is None or run.key != key:
                    if run is not None:
                        yield run.sample()
                    run = _Run(key, entry, repeated=key in keys)
                    keys.add(key)
                run.add(entry)
        except BrokenTarError as broken:
            self.end = fault = Fault(broken.reason, broken.offset, broken.member or "", broken.detail)
            key = (split_name(fault.member) or (fault.member, ""))[0]
            if run is not None and broken.member is not None and key == run.key:
                yield run.sample()._replace(fault=fault)
                return
            if run is not None:
                yield run.sample()
            yield Sample(key, broken.offset, 0, (), fault)
            return
        if run is not None:
            yield run.sample()

    def _key(self, entry: Entry) -> str | None:
        split = split_name(entry.name)
        if entry.is_folder or (split is None and entry.problem is None):
            self.num_ignored += 0 if entry.is_folder else 1
            return None
        return split[0] if split is not None else entry.name


class _Run:
    """A sample that is being collected."""

    def __init__(self, key: str, first: Entry, *, repeated: bool) -> None:
        self.key = key
        self._start, self._end, self._bytes = first.start, first.end, 0
        self._members: dict[str, Member] = {}
        self._fault: Fault | None = None
        if repeated:
            self._blame(first, "repeated_key", "members of this sample lie in two places of the shard")

    def add(self, entry: Entry) -> None:
        """Take one more member."""
        self._end = entry.end
        self._bytes += entry.size
        ext = (split_name(entry.name) or ("", ""))[1]
        if entry.problem is not None:
            self._blame(entry, *entry.problem)
        elif ext in self._members:
            self._blame(entry, "repeated_member", f"two members end in .{ext}")
        elif self._bytes > MAX_SAMPLE_BYTES:
            self._blame(entry, "too_large", f"a sample of more than {MAX_SAMPLE_BYTES} bytes")
        if self._fault is not None:
            self._members.clear()  # will not be used; holds no bytes any longer
            return
        self._members[ext] = Member(entry.name, ext, entry.offset, entry.size, entry.data)

    def sample(self) -> Sample:
        """What was collected."""
        members = tuple(self._members.values())
        return Sample(self.key, self._start, self._end - self._start, members, self._fault)

    def _blame(self, entry: Entry, reason: str, detail: str) -> None:
        if self._fault is None:
            self._fault = Fault(reason, entry.start, entry.name, detail)


Content = TypeVar("Content", bytes, memoryview)
"""Of a member; a view where the sample is one."""


def read_members(data: Content) -> list[tuple[str, Content]]:
    """Names and contents of the members in one sample's bytes, as the index says where they lie.

    Raises:
        RunError: these are not whole members.
    """
    plain = plain_members(data)
    return plain if plain is not None else any_members(data)


def plain_members(data: Content) -> list[tuple[str, Content]] | None:
    """What nearly all archives consist of, at a third of the time; None where anything is unusual.

    That is: plain files under short names, with headers that need no second look. `any_members` says the same of them.
    """
    members: list[tuple[str, Content]] = []
    position, end = 0, len(data)
    while position < end:
        header = bytes(data[position : position + BLOCK])
        position += BLOCK
        size_digits, sum_digits = header[124:136].rstrip(b"\0 "), header[148:156].rstrip(b"\0 ")
        has_prefix = header[257:263] == b"ustar\0" and header[345:346] != b"\0"
        if len(header) < BLOCK or header[156] not in b"0\0" or has_prefix:
            return None
        try:
            name = header[:100].partition(b"\0")[0].decode()
            if not (name and size_digits.isdigit() and sum_digits.isdigit()):
                return None
            size, stored = int(size_digits, 8), int(sum_digits, 8)
        except ValueError:  # of digits or of UTF-8
            return None
        if header_sum(header) != stored:
            return None
        stop = position + size
        position += padded(size)
        if position > end or size > MAX_SAMPLE_BYTES or name[0] == "/" or name[-1] == "/" or ".." in name:
            return None
        if split_name(name) is not None:
            members.append((name, data[stop - size : stop]))
    return members or None


def any_members(data: Content) -> list[tuple[str, Content]]:
    """`read_members` by the strict reader."""
    try:
        entries = [entry for entry in entries_of(data) if not entry.is_folder and split_name(entry.name) is not None]
    except BrokenTarError as broken:
        raise _changed(broken) from broken
    problem = next((entry.problem for entry in entries if entry.problem is not None), None)
    if problem is not None or not entries:
        raise _changed(problem or "no member")
    return [(entry.name, data[entry.offset : entry.offset + entry.size]) for entry in entries]


def _changed(found: object) -> RunError:
    return RunError(
        "a sample's bytes are not what the pool's index says",
        expected="whole tar members",
        found=found,
        next_step="the shard changed after it was indexed; run again to index it anew",
    )


_PLAIN_HEADER = tarfile.TarInfo()
_PLAIN_HEADER.mode = _MODE
_TEMPLATE = bytearray(_PLAIN_HEADER.tobuf(tarfile.USTAR_FORMAT))
"""Header of an empty file without a name; name, size and checksum are filled in."""
_PADDING = bytes(BLOCK)
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 135), slice(148, 155)
_MOST_PLAIN = 8**11
_SUM = sum(_TEMPLATE[: _CHECKSUM.start]) + sum(_TEMPLATE[_CHECKSUM.start + 8 :]) + 8 * ord(" ")
_SUM -= sum(_TEMPLATE[_SIZE]) + sum(_TEMPLATE[_NAME])


def tar_header(name: str, size: int) -> bytes:
    """Header of a plain file: ustar, or pax where the name is too long for it; no time, no owner."""
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) > _NAME.stop or size >= _MOST_PLAIN:
        return _other_header(name, size)
    digits = b"%011o" % size
    header = _TEMPLATE.copy()
    header[: len(raw)] = raw
    header[_SIZE] = digits
    header[_CHECKSUM] = b"%06o\0" % (_SUM + sum(raw) + sum(digits))
    return bytes(header)


def _other_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, _MODE
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    except ValueError:
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


class Sink(Protocol):
    """What is written to."""

    def write(self, data: bytes, /) -> object:
        """Take all of it."""


class TarWriter:
    """Writes members whose bytes, and nothing else, decide the archive's bytes."""

    def __init__(self, sink: Sink) -> None:
        """`sink` stays open."""
        self._sink = sink
        self._written = 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of all bytes so far, as 64 hex digits."""
        return self._digest.hexdigest()

    def add(self, name: str, data: bytes | memoryview) -> None:
        """Append one member."""
        self._write(b"".join((tar_header(name, len(data)), data, _PADDING[: -len(data) % BLOCK])))

    def close(self) -> None:
        """Write the end marker and fill the last record."""
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self._written % _RECORD))

    def _write(self, data: bytes) -> None:
        self._sink.write(data)
        self._digest.update(data)
        self._written += len(data)


def tar_bytes(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A whole small archive."""
    sink = io.BytesIO()
    writer = TarWriter(sink)
    for name, data in members:
        writer.add(name, data)
    writer.close()
    return sink.getvalue()
