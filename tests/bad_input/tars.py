"""Archives that are cut, damaged, put together wrongly, or made to do harm."""

import gzip
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace

from tests.bad_input.case import Case
from tests.bad_input.pools import BAD, between, case, sample
from tests.bad_input.through import Pool
from tests.stages.pool.pools import Members, archive, pair, shard_bytes

_FAMILY = "tar"
_BLOCK = 512
_RECORD = 20 * _BLOCK


def built(*members: tuple[tarfile.TarInfo, bytes], style: int = tarfile.GNU_FORMAT) -> bytes:
    """Two good samples with members of any kind between them."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=style) as tar:
        for info, data in [*_plain(pair(1).members()), *members, *_plain(pair(2).members())]:
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def _plain(members: Members) -> list[tuple[tarfile.TarInfo, bytes]]:
    found = []
    for name, data in members:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        found.append((info, data))
    return found


def special(kind: bytes, link: str = "", name: str | None = None) -> Pool:
    """A sample whose image is something else than a file."""
    info = tarfile.TarInfo(name or f"{pair(BAD).key}.jpg")
    info.type, info.linkname = kind, link
    return Pool(built((info, b""), *_plain(sample(without="jpg"))), good=(1, 2))


def named(change: Callable[[str], str]) -> Pool:
    """A sample whose members are called otherwise."""
    return between([(change(name), data) for name, data in sample()])


def cut(at: Callable[[bytes], int], good: tuple[int, ...]) -> Pool:
    """A shard of two good samples, ended early."""
    data = shard_bytes([pair(1), pair(2)])
    return Pool(data[: at(data)], good=good)


def _second(data: bytes) -> int:
    """Where the second sample begins."""
    return data.index(pair(2).key.encode())


def _content(data: bytes) -> bytes:
    """Without end marker and padding."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        last = tar.getmembers()[-1]
    return data[: last.offset_data + -(-last.size // _BLOCK) * _BLOCK]


def _patched(place: Callable[[bytes], int], value: bytes, *, checksum: bool = False) -> bytes:
    """Two samples, with bytes of a header in the second overwritten."""
    data = bytearray(shard_bytes([pair(1), pair(2)]))
    at = place(bytes(data))
    data[at : at + len(value)] = value
    if checksum:
        start = at // _BLOCK * _BLOCK
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + _BLOCK])
    return bytes(data)


def _huge(size: bytes) -> Pool:
    return Pool(_patched(lambda data: _second(data) + 124, size, checksum=True), good=(1,))


def _sparse() -> Pool:
    """10 GB on paper: GNU's old way to write a file with holes."""
    info = tarfile.TarInfo(f"{pair(BAD).key}.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[386:410] = b"%011o\0%011o\0" % (10 << 30, 0)
    head[483:495] = b"\x80" + (10 << 30).to_bytes(11, "big")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return Pool(_content(shard_bytes([pair(1)])) + bytes(head) + shard_bytes([pair(2)]), good=(1,))


def _pax(records: dict[str, str]) -> Pool:
    (image, data), *rest = _plain(sample())
    image.pax_headers = records
    return Pool(built((image, data), *rest, style=tarfile.PAX_FORMAT), good=(1, 2))


def _interleaved() -> Members:
    mine, other = sample(), pair(51).members()
    return [mine[0], other[0], mine[1], other[1], mine[2], other[2]]


def _long_names(style: int) -> Pool:
    folder = "folder/" * 30
    return Pool(
        archive([(folder + name, data) for n in (1, 2) for name, data in pair(n).members()], style=style), (1, 2)
    )


def _tar_in_tar() -> Pool:
    return between([(f"{pair(BAD).key}.tar", shard_bytes([pair(51)])), *sample(without="jpg")])


_Q, _A = "quarantined", "accepted"

CASES: list[Case] = [
    case("empty file", _FAMILY, _Q, "truncated_tar", build=lambda: Pool(b"")),
    case("cut after 100 bytes", _FAMILY, _Q, "truncated_tar", build=lambda: cut(lambda data: 100, ())),
    case("cut in a header", _FAMILY, _Q, "truncated_tar", build=lambda: cut(lambda d: _second(d) + 99, (1,))),
    case("cut in an image", _FAMILY, _Q, "truncated_tar", build=lambda: cut(lambda d: _second(d) + 700, (1,))),
    case(
        "cut between members",
        _FAMILY,
        _Q,
        "truncated_tar",
        build=lambda: cut(lambda d: d.index(f"{pair(2).key}.json".encode()), (1,)),
    ),
    case(
        "cut before .txt",
        _FAMILY,
        _Q,
        "truncated_tar",
        build=lambda: cut(lambda d: d.index(f"{pair(2).key}.txt".encode()), (1,)),
    ),
    case("cut between samples", _FAMILY, _A, build=lambda: cut(_second, (1,))),
    case("without end marker", _FAMILY, _A, build=lambda: cut(lambda d: len(_content(d)), (1, 2))),
    case("half an end marker", _FAMILY, _A, build=lambda: cut(lambda d: len(_content(d)) + _BLOCK, (1, 2))),
    case("end marker alone", _FAMILY, _A, build=lambda: Pool(bytes(_RECORD))),
    case(
        "zeros in the middle",
        _FAMILY,
        _Q,
        "data_after_end",
        build=lambda: Pool(_content(shard_bytes([pair(1)])) + bytes(4 * _BLOCK) + shard_bytes([pair(2)]), (1,)),
    ),
    case(
        "two archives put together",
        _FAMILY,
        _Q,
        "data_after_end",
        build=lambda: Pool(shard_bytes([pair(1)]) + shard_bytes([pair(2)]), (1,)),
    ),
    case(
        "text behind the end",
        _FAMILY,
        _Q,
        "data_after_end",
        build=lambda: Pool(shard_bytes([pair(1), pair(2)]) + b"-- \nsigned", (1, 2)),
    ),
    case(
        "bad checksum",
        _FAMILY,
        _Q,
        "bad_header",
        build=lambda: Pool(_patched(lambda d: _second(d) + 148, b"000000\0 "), (1,)),
    ),
    case(
        "a flipped bit in a name",
        _FAMILY,
        _Q,
        "bad_header",
        build=lambda: Pool(_patched(lambda d: _second(d) + 3, b"\x7f"), (1,)),
    ),
    case("size that is no octal number", _FAMILY, _Q, "bad_header", build=lambda: _huge(b"00000000xyz\0")),
    case("declared size of 8 GB", _FAMILY, _Q, "truncated_tar", build=lambda: _huge(b"77777777777\0")),
    case("declared size of 2^88", _FAMILY, _Q, "truncated_tar", build=lambda: _huge(b"\x80" + b"\xff" * 11)),
    case("negative size", _FAMILY, _Q, "bad_header", build=lambda: _huge(b"\xff" * 12)),
    case("pax size that is huge", _FAMILY, _Q, "truncated_tar", build=lambda: Pool(_pax({"size": "9" * 30}).bad, (1,))),
    case("pax size that is no number", _FAMILY, _Q, "bad_header", build=lambda: Pool(_pax({"size": "ten"}).bad, (1,))),
    case(
        "pax size of 5,000 digits", _FAMILY, _Q, "bad_header", build=lambda: Pool(_pax({"size": "9" * 5000}).bad, (1,))
    ),
    case(
        "pax path that climbs out",
        _FAMILY,
        _Q,
        "bad_name",
        "no_image",
        build=lambda: _pax({"path": "../../etc/cron.d/x.jpg"}),
    ),
    case(
        "pax sparse file of 10 GB",
        _FAMILY,
        _Q,
        "bad_member",
        build=lambda: Pool(_pax({"GNU.sparse.major": "1", "GNU.sparse.realsize": str(10 << 30)}).bad, (1,)),
    ),
    case("sparse member of 10 GB", _FAMILY, _Q, "bad_member", build=_sparse),
    case("member of 129 MiB", _FAMILY, _Q, "too_large", build=lambda: between(sample(image=bytes(129 << 20)))),
    case("path traversal", _FAMILY, _Q, "bad_name", build=lambda: named(lambda name: f"../../../tmp/{name}")),
    case("path traversal in the middle", _FAMILY, _Q, "bad_name", build=lambda: named(lambda name: f"a/../../{name}")),
    case("absolute names", _FAMILY, _Q, "bad_name", build=lambda: named(lambda name: f"/etc/{name}")),
    case("names in Latin-1", _FAMILY, _Q, "bad_name", build=lambda: named(lambda name: f"caf\udce9{name}")),
    case("names with line ends and colours", _FAMILY, _A, build=lambda: named(lambda name: f"a\n\x1b[31m{name}")),
    case("names with ./ in front", _FAMILY, _A, build=lambda: named(lambda name: f"./{name}")),
    case(
        "hidden files beside the samples",
        _FAMILY,
        _A,
        "ignored_member",
        build=lambda: between([("._x", b"finder"), (".DS_Store", b"finder"), *sample()]),
    ),
    case(
        "member without an ending",
        _FAMILY,
        _A,
        "ignored_member",
        build=lambda: between([("README", b"hello"), *sample()]),
    ),
    case("symbolic link as image", _FAMILY, _Q, "bad_member", build=lambda: special(tarfile.SYMTYPE, "/etc/passwd")),
    case("hard link as image", _FAMILY, _Q, "bad_member", build=lambda: special(tarfile.LNKTYPE, pair(1).key + ".jpg")),
    case("character device", _FAMILY, _Q, "bad_member", build=lambda: special(tarfile.CHRTYPE)),
    case("block device", _FAMILY, _Q, "bad_member", build=lambda: special(tarfile.BLKTYPE)),
    case("pipe", _FAMILY, _Q, "bad_member", build=lambda: special(tarfile.FIFOTYPE)),
    case("folder called as an image", _FAMILY, _Q, "no_image", build=lambda: special(tarfile.DIRTYPE)),
    case("unknown type", _FAMILY, _Q, "bad_member", build=lambda: special(b"Z")),
    case("interleaved members", _FAMILY, _Q, "no_uid", "repeated_key", build=lambda: between(_interleaved())),
    case(
        "no .txt, no caption in .json",
        _FAMILY,
        _Q,
        "no_caption",
        build=lambda: between(sample(json=b'{"uid": "77"}', without="txt")),
    ),
    case("no .json", _FAMILY, _Q, "no_uid", build=lambda: between(sample(without="json"))),
    case(".txt alone", _FAMILY, _Q, "no_uid", build=lambda: between([sample()[2]])),
    case("member twice", _FAMILY, _Q, "repeated_member", build=lambda: between([sample()[0], *sample()])),
    case(
        "sample twice",
        _FAMILY,
        _Q,
        "repeated_key",
        build=lambda: between([*pair(3).members(), *pair(4).members(), *pair(3).members()]),
    ),
    case("tar in a tar", _FAMILY, _Q, "no_image", build=_tar_in_tar),
    case("gzip named .tar", _FAMILY, _Q, "not_a_tar", build=lambda: Pool(gzip.compress(shard_bytes([pair(1)])))),
    case("zip named .tar", _FAMILY, _Q, "not_a_tar", build=lambda: Pool(b"PK\x03\x04" + bytes(900))),
    case("HTML named .tar", _FAMILY, _Q, "not_a_tar", build=lambda: Pool(b"<html>503 Slow Down</html>" * 60)),
    case("bytes of no kind named .tar", _FAMILY, _Q, "not_a_tar", build=lambda: Pool(bytes(range(1, 256)) * 40)),
    case("long names, GNU", _FAMILY, _A, build=lambda: _long_names(tarfile.GNU_FORMAT)),
    case("long names, pax", _FAMILY, _A, build=lambda: _long_names(tarfile.PAX_FORMAT)),
    case(
        "GNU long name of 2 MB",
        _FAMILY,
        _Q,
        "bad_header",
        build=lambda: Pool(
            archive([*pair(1).members(), ("x" * (2 << 20) + ".jpg", b"x")], style=tarfile.GNU_FORMAT), (1,)
        ),
    ),
    case(
        "more broken samples than allowed",
        _FAMILY,
        "refused",
        "00000001.tar: 1 of 3: 1 no_image",
        "1 of 5 = 20.00%",
        "at most 10.00%",
        "pool.max_quarantined",
        build=lambda: replace(between(sample(without="jpg")), max_quarantined=0.1),
    ),
    case(
        "more unreadable bytes than allowed",
        _FAMILY,
        "refused",
        "00000001.tar",
        "not_a_tar",
        "pool.max_quarantined",
        build=lambda: Pool(b"<html>503 Slow Down</html>" * 9000, max_quarantined=0.4),
    ),
]
