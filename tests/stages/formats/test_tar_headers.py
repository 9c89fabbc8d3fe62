"""Entries against Python's own tarfile: the same members at the same places, or an error that says where."""

import io
import tarfile

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stages.formats import tar_headers
from stages.formats.tar_headers import BLOCK, BrokenTarError, Entry, entries_of, padded, read_entries

STYLES = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def info_of(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info


def built(members: list[tuple[tarfile.TarInfo, bytes]], style: int = tarfile.USTAR_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=style) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def entries(data: bytes) -> list[Entry]:
    return list(read_entries(io.BytesIO(data)))


def broken(data: bytes) -> BrokenTarError:
    with pytest.raises(BrokenTarError) as raised:
        entries(data)
    return raised.value


def sealed(header: bytes) -> bytes:
    """A header with the checksum that its other bytes ask for."""
    body = bytearray(header)
    body[148:156] = b"%06o\0 " % (sum(body[:148]) + sum(body[156:512]) + 8 * 32)
    return bytes(body)


names = st.text("abc./é漢 0", min_size=1, max_size=40).flatmap(
    lambda name: st.integers(1, 6).map(lambda times: "m" + (name * times).strip("/ ") + "x")  # past 100 bytes too
)
kinds = st.sampled_from([tarfile.REGTYPE] * 4 + [tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(names, st.binary(max_size=1100), kinds), max_size=6), st.sampled_from(STYLES[1:]))
def test_entries_of_any_archive_are_tarfiles_own(members: list[tuple[str, bytes, bytes]], style: int) -> None:
    planned = [
        (info_of(name, data if kind in (b"0", b"\0") else b"", kind, "target" if kind in (b"1", b"2") else ""), data)
        for name, data, kind in members
    ]
    # tarfile takes an old-style file for a folder where its long name, cut to a header's 100 bytes, ends in a slash
    assume(not any(kind == tarfile.AREGTYPE and name.encode()[99:100] == b"/" for name, _, kind in members))
    data = built(planned, style)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(i.name, i.offset, i.offset_data, i.size, i.isdir(), i.issym() or i.islnk()) for i in tar]
    found = entries(data)
    assert [
        (e.name.rstrip("/"), e.start, e.offset, e.size, e.is_folder, (e.problem or ("",))[0] == "bad_member")
        for e in found
    ] == expected
    for entry in found:
        assert entry.data == data[entry.offset : entry.offset + entry.size]
        assert entry.end == entry.offset + padded(entry.size)


SMALL = built(
    [(info_of("1.jpg", b"x" * 700), b"x" * 700), (info_of("n" * 120 + ".txt", b"y"), b"y")], tarfile.PAX_FORMAT
)
ENDS = [entry.end for entry in entries(SMALL)]


def test_truncation_at_every_byte_gives_the_whole_members_and_one_error() -> None:
    """Of an archive with a long name: header, extended header, data and padding are all cut through."""
    whole = entries(SMALL)
    for cut in range(ENDS[-1] + BLOCK):
        found, reason = read_on(SMALL[:cut])
        assert found == [entry for entry in whole if entry.end <= cut], cut
        assert reason == ("no_end_marker" if cut in ENDS else "truncated_tar"), cut
    assert read_on(SMALL[: ENDS[-1] + BLOCK]) == (whole, None)  # one zero block is an end


def read_on(data: bytes) -> tuple[list[Entry], str | None]:
    """Members up to the place where the archive breaks off, and why."""
    found: list[Entry] = []
    try:
        for entry in read_entries(io.BytesIO(data)):
            found.append(entry)  # noqa: PERF402  # what came before an error counts
    except BrokenTarError as error:
        return found, error.reason
    return found, None


@pytest.mark.parametrize("bit", [0, 5, 7])
def test_any_flipped_bit_of_a_header_is_found(bit: int) -> None:
    """Every byte counts towards the checksum, or is the checksum."""
    start = ENDS[0]
    for place in range(start, start + BLOCK):
        data = bytearray(SMALL)
        data[place] ^= 1 << bit
        if tarfile_accepts(bytes(data[start : start + BLOCK])):
            continue  # a NUL or space that ends the checksum field may become the other
        error = broken(bytes(data))
        assert (error.reason, error.offset) == ("bad_header", start), place


def tarfile_accepts(header: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(header, "utf-8", "replace")
    except tarfile.HeaderError:
        return False
    return True


def test_flipped_bits_are_accepted_only_at_the_checksums_end() -> None:
    """The test before this one leaves places out; these are few and none of them changes what is read."""
    start, left_out = ENDS[0], set()
    for place in range(start, start + BLOCK):
        for bit in (0, 5, 7):
            data = bytearray(SMALL[start : start + BLOCK])
            data[place - start] ^= 1 << bit
            if tarfile_accepts(bytes(data)):
                left_out.add(place - start)
    assert left_out <= set(range(148, 156))


@pytest.mark.parametrize(
    ("field", "value", "detail"),
    [
        (slice(124, 136), b"0000000009\0 ", "no octal number"),
        (slice(124, 136), b"-0000000001\0", "no octal number"),
        (slice(124, 136), b"0x000000010\0", "no octal number"),
        (slice(124, 136), b"\xff" + b"\xff" * 11, "a negative size"),
    ],
)
def test_size_that_is_none_is_a_bad_header(field: slice, value: bytes, detail: str) -> None:
    header = bytearray(info_of("1.jpg").tobuf(tarfile.USTAR_FORMAT))
    second = bytearray(header)
    second[field] = value
    error = broken(bytes(header) + sealed(bytes(second)))
    assert (error.reason, error.offset) == ("bad_header", BLOCK)
    assert detail in error.detail


def test_size_larger_than_the_file_is_a_cut_that_names_the_member() -> None:
    header = bytearray(info_of("huge.jpg").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\x80" + (1 << 40).to_bytes(11, "big")
    error = broken(sealed(bytes(header)) + bytes(3000))
    assert (error.reason, error.member, error.offset) == ("truncated_tar", "huge.jpg", 0)


def extended(records: bytes, kind: bytes = b"x") -> bytes:
    header = info_of("pax", records, kind).tobuf(tarfile.USTAR_FORMAT)
    return header + records + bytes(-len(records) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d" % length + body


MEMBER = built([(info_of("plain.jpg", b"abc"), b"abc")])


def test_pax_path_and_size_replace_the_headers() -> None:
    data = extended(record(b"path", "größe.jpg".encode()) + record(b"size", b"2")) + MEMBER
    (entry,) = entries(data)
    assert (entry.name, entry.size, entry.data, entry.start) == ("größe.jpg", 2, b"ab", 0)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert [(info.name, info.size) for info in tar] == [("größe.jpg", 2)]


def test_pax_records_without_use_change_nothing() -> None:
    data = (
        extended(record(b"mtime", b"1.5") + record(b"comment", b"a=b\nc") + record(b"SCHILY.xattr.user", b"\xff"))
        + MEMBER
    )
    assert [(entry.name, entry.data) for entry in entries(data)] == [("plain.jpg", b"abc")]


@pytest.mark.parametrize(
    "records",
    [
        b"no length\n",
        b"9 path=ab\n"[:-1] + b"x",
        b"99 path=a\n",
        b"0 path=a\n",
        b"3 p\n",
        b"-9 path=a\n",
        b"12345678 path=a\n",
        b"\xb2 a=b\n",
    ],
)
def test_pax_that_cannot_be_parsed_is_a_bad_header(records: bytes) -> None:
    error = broken(extended(records) + MEMBER)
    assert (error.reason, error.offset) == ("bad_header", 0)
    assert "pax" in error.detail


@pytest.mark.parametrize(("size", "detail"), [(b"many", "no number"), (b"-1", "negative")])
def test_pax_size_that_is_none_is_a_bad_header(size: bytes, detail: str) -> None:
    error = broken(extended(record(b"size", size)) + MEMBER)
    assert error.reason == "bad_header"
    assert detail in error.detail


@pytest.mark.parametrize("key", [b"path", b"size"])
def test_global_pax_that_names_members_is_refused(key: bytes) -> None:
    """One name for all members would make one sample of them."""
    assert "global pax" in broken(extended(record(key, b"1"), b"g") + MEMBER).detail


def test_extended_header_without_a_member_is_a_bad_header() -> None:
    assert "without a member" in broken(extended(record(b"path", b"a.jpg")) + bytes(1024)).detail


def test_extended_header_beyond_bound_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_headers, "_MAX_EXTENSION_BYTES", 100)
    assert "extended header of" in broken(extended(record(b"comment", b"x" * 200)) + MEMBER).detail


@pytest.mark.parametrize("members", [{b"GNU.sparse.major": b"1"}, {b"GNU.sparse.name": b"x"}])
def test_sparse_file_of_pax_is_refused(members: dict[bytes, bytes]) -> None:
    """Its data are not the file's bytes."""
    records = b"".join(record(key, value) for key, value in members.items())
    assert broken(extended(records) + MEMBER).reason == "bad_member"


def test_sparse_file_of_gnu_is_refused() -> None:
    assert broken(sealed(info_of("s.jpg", b"", b"S").tobuf(tarfile.GNU_FORMAT)) + bytes(1024)).reason == "bad_member"


@pytest.mark.parametrize("kind", [b"V", b"M", b"9", b"A"])
def test_member_of_an_unknown_type_is_passed_over(kind: bytes) -> None:
    data = built([(info_of("a.jpg", b"data", kind), b"data")])[: 2 * BLOCK] + MEMBER
    first, second = entries(data)
    assert (first.problem or ("",))[0] == "bad_member"
    assert (first.data, second.name, second.data) == (b"", "plain.jpg", b"abc")


@pytest.mark.parametrize("name", ["/1.jpg", "../1.jpg", "a/../1.jpg", "a/.."])
def test_name_outside_its_folder_is_a_problem_and_holds_no_bytes(name: str) -> None:
    first, second = entries(built([(info_of(name, b"data"), b"data"), (info_of("ok.jpg", b"abc"), b"abc")]))
    assert (first.problem or ("",))[0] == "bad_name"
    assert (first.data, second.data) == (b"", b"abc")


@pytest.mark.parametrize("style", STYLES[1:])
@pytest.mark.parametrize("length", [99, 100, 101, 155, 256, 511, 512, 513, 2000])
def test_long_name_of_any_length_is_whole(style: int, length: int) -> None:
    name = ("é/" * length)[: length - 4] + ".jpg"
    (entry,) = entries(built([(info_of(name, b"data"), b"data")], style))
    assert (entry.name, entry.data, entry.problem, entry.start) == (name, b"data", None, 0)


@pytest.mark.parametrize("name", ["..a/1.jpg", "a..b/1.jpg", "...jpg", "a/.../1.jpg"])
def test_name_with_dots_that_climbs_nowhere_is_fine(name: str) -> None:
    assert entries(built([(info_of(name, b"data"), b"data")]))[0].problem is None


def test_nul_inside_a_pax_name_is_a_bad_name() -> None:
    (entry,) = entries(extended(record(b"path", b"a\0b.jpg")) + MEMBER)
    assert (entry.problem or ("",))[0] == "bad_name"


class Dripping:
    """Gives a few bytes a call, as a socket does."""

    def __init__(self, data: bytes, step: int) -> None:
        self._stream, self._step = io.BytesIO(data), step

    def read(self, size: int, /) -> bytes:
        return self._stream.read(min(size, self._step))


@pytest.mark.parametrize("step", [1, 7, 511, 513])
def test_source_that_gives_less_than_asked_is_read_whole(step: int) -> None:
    assert list(read_entries(Dripping(SMALL, step))) == entries(SMALL)


def test_entries_of_a_piece_end_where_it_ends() -> None:
    assert list(entries_of(SMALL[: ENDS[0]])) == entries(SMALL)[:1]
    with pytest.raises(BrokenTarError, match="truncated_tar"):
        list(entries_of(SMALL[: ENDS[0] - 1]))


@settings(deadline=None)
@given(st.integers(0, 1 << 50))
def test_padded_is_the_next_whole_block(size: int) -> None:
    assert size <= padded(size) < size + BLOCK
    assert padded(size) % BLOCK == 0
