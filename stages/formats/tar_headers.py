"""Tar entries, read strictly from a stream: headers with checksums, long names, nothing that is no plain file.

Layout after POSIX.1-2001 (ustar, pax) and GNU long names. What cannot be read on from is an error that says
where; what can be skipped (links, odd names, members that are too large) is an entry with a problem.
"""

import io
from collections.abc import Iterator
from typing import NamedTuple, Protocol

BLOCK = 512
MAX_SAMPLE_BYTES = 128 << 20
"""A member, or a sample's members together, beyond this are skipped, never held."""

_ZERO = bytes(BLOCK)
_MAX_EXTENSION_BYTES = 1 << 20
_COPY_BYTES = 1 << 20
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_DATA = {b"1": "hard link", b"2": "symbolic link", b"3": "device", b"4": "device", b"6": "pipe"}
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}


class Source(Protocol):
    """What is read from: a file, a ranged reader, bytes."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; fewer only at the end."""


class Entry(NamedTuple):
    """One member of an archive."""

    name: str
    start: int
    """Offset of its first header (that of a long name, if it has one)."""
    offset: int
    """Offset of its data."""
    size: int
    end: int
    """Offset behind its padding."""
    data: bytes
    problem: tuple[str, str] | None = None
    """Reason and detail, if this is not a member that a sample may have."""
    is_folder: bool = False


class BrokenTarError(Exception):
    """The archive cannot be read on from here."""

    def __init__(self, reason: str, offset: int, detail: str, member: str | None = None) -> None:
        """`member` is known if its header could be read."""
        super().__init__(f"{reason} at offset {offset}: {detail}")
        self.reason, self.offset, self.detail, self.member = reason, offset, detail, member


class _Header(NamedTuple):
    name: bytes
    size: int
    kind: bytes
    link: str


class _HeaderError(ValueError):
    pass


class _Stream:
    """Counts what is read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.position = 0

    def take(self, size: int) -> bytes:
        """`size` bytes, fewer at the end of the source."""
        data = self._source.read(size)
        while len(data) < size and (more := self._source.read(size - len(data))):
            data += more
        self.position += len(data)
        return data

    def skip(self, size: int) -> bool:
        """Pass over bytes; False if the source ends before."""
        while size > 0:
            step = len(self.take(min(size, _COPY_BYTES)))
            if step == 0:
                return False
            size -= step
        return True


def padded(size: int) -> int:
    """Bytes that data of this size takes in an archive."""
    return -(-size // BLOCK) * BLOCK


def read_entries(source: Source) -> Iterator[Entry]:
    """All members in order, folders among them.

    Raises:
        BrokenTarError: at the first place from which the archive cannot be read on; `no_end_marker` if it ends
            between two members, which is the end of a part of an archive and may be the end of a cut one.
    """
    stream = _Stream(source)
    while (header := _next_header(stream)) is not None:
        start, fields, extended = header
        yield _entry(stream, start, fields, extended)


def _next_header(stream: _Stream) -> tuple[int, _Header, dict[str, bytes]] | None:
    """Start, header and extensions of the next member; None at the end marker."""
    start = stream.position
    extended: dict[str, bytes] = {}
    while True:
        here = stream.position
        block = stream.take(BLOCK)
        if not block and here == start:
            reason = "no_end_marker" if start else "truncated_tar"
            raise BrokenTarError(reason, here, "the archive ends without an end marker" if start else "an empty file")
        if len(block) < BLOCK:
            if here == 0 and _compression(block) is not None:
                raise _no_tar(block, "")
            raise BrokenTarError("truncated_tar", start, f"the archive ends inside a header, at byte {stream.position}")
        if block == _ZERO:
            if extended:
                raise BrokenTarError("bad_header", here, "an extended header without a member")
            _check_tail(stream, here)
            return None
        try:
            fields = _parse_header(block)
        except _HeaderError as error:
            if here == 0:
                raise _no_tar(block, str(error)) from error
            raise BrokenTarError("bad_header", here, f"{error}; nothing behind it can be read") from error
        if fields.kind not in (b"x", b"g", b"L", b"K"):
            return start, fields, extended
        extension = _extension(stream, here, fields)
        if fields.kind == b"x":
            extended |= _pax_records(extension, here)
        elif fields.kind == b"L":
            extended["path"] = extension.rstrip(b"\0")
        elif fields.kind == b"g" and {"path", "size"} & set(_pax_records(extension, here)):
            raise BrokenTarError("bad_header", here, "a global pax header that names or sizes members")
        if fields.kind == b"g":
            start = stream.position  # belongs to the archive, not to the member behind it


def _entry(stream: _Stream, start: int, fields: _Header, extended: dict[str, bytes]) -> Entry:
    raw = extended.get("path", fields.name)
    name = raw.decode("utf-8", "replace")
    offset = stream.position
    try:
        size = int(extended.get("size", b"%d" % fields.size))
    except ValueError:
        raise BrokenTarError("bad_header", start, "a pax size that is no number", name) from None
    if size < 0:
        raise BrokenTarError("bad_header", start, f"a negative size {size}", name)
    if fields.kind == b"S" or any(key.startswith("GNU.sparse") for key in extended):
        raise BrokenTarError("bad_member", start, "a sparse file", name)
    if fields.kind in _WITHOUT_DATA:
        detail = f"{_WITHOUT_DATA[fields.kind]} {fields.link}".rstrip()
        return Entry(name, start, offset, 0, offset, b"", ("bad_member", detail))
    if fields.kind == b"5" or (fields.kind in _REGULAR and name.endswith("/")):
        if not stream.skip(padded(size)):
            raise _cut(start, name, size, stream)
        return Entry(name, start, offset, 0, stream.position, b"", is_folder=True)
    problem = _problem(fields, raw, size)
    if problem is not None:
        whole, data = stream.skip(padded(size)), b""
    else:
        data = stream.take(padded(size))
        whole = len(data) == padded(size)
    if not whole:
        raise _cut(start, name, size, stream)
    return Entry(name, start, offset, size, stream.position, data[:size], problem)


def _problem(fields: _Header, raw: bytes, size: int) -> tuple[str, str] | None:
    if fields.kind not in _REGULAR:
        return "bad_member", f"type {fields.kind!r}"
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bad_name", f"not UTF-8: {raw!r}"
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        return "bad_name", "an absolute name or one that climbs out of its folder"
    if size > MAX_SAMPLE_BYTES:
        return "too_large", f"{size} bytes, more than {MAX_SAMPLE_BYTES}"
    return None


def _cut(start: int, name: str, size: int, stream: _Stream) -> BrokenTarError:
    detail = f"the archive ends at byte {stream.position}, inside a member of {size} bytes"
    return BrokenTarError("truncated_tar", start, detail, name)


def _no_tar(block: bytes, detail: str) -> BrokenTarError:
    kind = _compression(block)
    return BrokenTarError("not_a_tar", 0, f"{kind}-compressed bytes" if kind else detail)


def _compression(block: bytes) -> str | None:
    return next((kind for magic, kind in _MAGIC.items() if block.startswith(magic)), None)


def _check_tail(stream: _Stream, end: int) -> None:
    """Behind the end marker there is padding, or else there are samples that nobody would ever see."""
    while block := stream.take(_COPY_BYTES):
        if block.count(0) != len(block):
            raise BrokenTarError("data_after_end", end, "data behind the end marker, as of archives put together")


def _extension(stream: _Stream, here: int, fields: _Header) -> bytes:
    if fields.size > _MAX_EXTENSION_BYTES:
        raise BrokenTarError("bad_header", here, f"an extended header of {fields.size} bytes")
    data = stream.take(padded(fields.size))
    if len(data) < padded(fields.size):
        raise BrokenTarError("truncated_tar", here, f"the archive ends inside a header, at byte {stream.position}")
    return data[: fields.size]


def _pax_records(data: bytes, here: int) -> dict[str, bytes]:
    """`length key=value newline` records."""
    records: dict[str, bytes] = {}
    while data:
        digits, space, _ = data.partition(b" ")
        length = int(digits) if space and digits.isdigit() and len(digits) < 8 else 0
        key, equals, value = data[len(digits) + 1 : max(length - 1, 0)].partition(b"=")
        if not equals or length > len(data) or data[length - 1 : length] != b"\n":
            raise BrokenTarError("bad_header", here, "a pax header that cannot be parsed")
        records[key.decode("utf-8", "replace")] = value
        data = data[length:]
    return records


def _parse_header(block: bytes) -> _Header:
    """Fields of one header block, its checksum checked."""
    try:
        stored = _number(block[148:156])
    except _HeaderError:
        stored = -1
    if stored != header_sum(block):
        raise _HeaderError("a header whose checksum is wrong")
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].partition(b"\0")[0]
        name = prefix + b"/" + name if prefix else name
    link = block[157:257].partition(b"\0")[0].decode("utf-8", "replace")
    return _Header(name, _number(block[124:136]), block[156:157], link)


def header_sum(block: bytes) -> int:
    """What a header's checksum should be: of all bytes, the field itself taken for spaces."""
    return sum(block[:148].translate(None, b"\0")) + sum(block[156:].translate(None, b"\0")) + 8 * ord(" ")


def _number(field: bytes) -> int:
    if field[0] in (0x80, 0xFF):  # GNU: base 256 in two's complement, for what octal digits cannot hold
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    digits = field.partition(b"\0")[0].strip()
    if not digits:
        return 0
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise _HeaderError(f"a header field that is no octal number: {digits!r}")
    return int(digits, 8)


def entries_of(data: bytes | memoryview) -> Iterator[Entry]:
    """Members in a piece of an archive, which has no end marker."""
    try:
        yield from read_entries(io.BytesIO(data))
    except BrokenTarError as broken:
        if broken.reason != "no_end_marker":
            raise
