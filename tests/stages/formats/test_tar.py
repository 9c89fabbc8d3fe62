import hashlib
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RunError
from stages.formats import tar as tar_module
from stages.formats import tar_headers
from stages.formats.tar import (
    Sample,
    ShardReader,
    TarWriter,
    any_members,
    plain_members,
    read_members,
    split_name,
    tar_bytes,
    tar_header,
)
from tests.stages.pool.pools import Members, archive, pair

SAMPLES = [pair(n).members() for n in range(4)]
WHOLE = archive([member for members in SAMPLES for member in members])
END = sum(512 + -(-len(data) // 512) * 512 for members in SAMPLES for _, data in members)


def scan(data: bytes) -> list[Sample]:
    return list(ShardReader(io.BytesIO(data)))


def reasons(data: bytes) -> list[tuple[str, str | None]]:
    return [(sample.key, sample.fault.reason if sample.fault else None) for sample in scan(data)]


def contents(sample: Sample) -> Members:
    return [(member.name, member.data) for member in sample.members]


def special(kind: bytes, name: str = "0001.jpg", link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reader_whole_archive_gives_its_samples(style: int) -> None:
    found = scan(archive([member for members in SAMPLES for member in members], style=style))
    assert [contents(sample) for sample in found] == SAMPLES
    assert all(sample.fault is None for sample in found)


def test_reader_offsets_point_at_data_and_samples() -> None:
    place = 0
    for sample in scan(WHOLE):
        assert sample.offset == place
        place += sample.length
        for member in sample.members:
            assert WHOLE[member.offset : member.offset + member.size] == member.data
        assert read_members(WHOLE[sample.offset : sample.offset + sample.length]) == contents(sample)
    assert place == END


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reader_long_and_foreign_names_are_whole(style: int) -> None:
    name = "sehr/" + "länger" * 40 + ".jpg"
    data = archive([("0.jpg", b"x"), (name, b"image"), (name[:-3] + "txt", b"text")], style=style)
    sample = scan(data)[1]
    assert contents(sample) == [(name, b"image"), (name[:-3] + "txt", b"text")]
    assert read_members(data[sample.offset : sample.offset + sample.length]) == contents(sample)


def test_reader_ustar_prefix_is_part_of_the_name() -> None:
    name = "/".join(["folder" * 5] * 4) + "/0001.jpg"
    assert scan(archive([(name, b"x")]))[0].members[0].name == name


def test_reader_key_is_name_up_to_first_dot_with_folder() -> None:
    data = archive([("a/1.jpg", b"1"), ("a/1.seg.png", b"2"), ("b/1.jpg", b"3"), ("b/1.TXT", b"4")])
    assert [(s.key, [m.ext for m in s.members]) for s in scan(data)] == [
        ("a/1", ["jpg", "seg.png"]),
        ("b/1", ["jpg", "txt"]),
    ]


def test_reader_members_of_no_sample_are_counted_and_part_nothing() -> None:
    data = archive([("1.jpg", b"1"), (".DS_Store", b"x"), ("README", b"x"), ("._1.jpg", b"x"), ("1.txt", b"2")])
    reader = ShardReader(io.BytesIO(data))
    samples = list(reader)
    assert [[m.name for m in s.members] for s in samples] == [["1.jpg", "1.txt"]]
    assert reader.num_ignored == 3
    sample = samples[0]
    assert read_members(data[sample.offset : sample.offset + sample.length]) == [("1.jpg", b"1"), ("1.txt", b"2")]


def test_reader_folders_are_passed_over() -> None:
    folder = special(tarfile.DIRTYPE, "a")
    data = folder + archive([("a/1.jpg", b"1"), ("a/1.txt", b"2")])
    assert reasons(data) == [("a/1", None)]


def test_reader_global_pax_header_belongs_to_no_sample() -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "made by git"}) as tar:
        tar.addfile(tarfile.TarInfo("1.jpg"))
    sample = scan(sink.getvalue())[0]
    assert (sample.key, sample.offset) == ("1", 1024)


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        (tarfile.SYMTYPE, "symbolic link /etc/passwd"),
        (tarfile.LNKTYPE, "hard link /etc/passwd"),
        (tarfile.CHRTYPE, "device /etc/passwd"),
        (tarfile.FIFOTYPE, "pipe /etc/passwd"),
    ],
)
def test_reader_links_and_devices_spoil_their_sample_only(kind: bytes, detail: str) -> None:
    data = (
        archive([("0000.jpg", b"x")])[:1024]
        + special(kind, link="/etc/passwd")
        + archive([("0001.txt", b"x"), ("2.jpg", b"x")])
    )
    assert reasons(data) == [("0000", None), ("0001", "bad_member"), ("2", None)]
    fault = scan(data)[1].fault
    assert fault is not None
    assert (fault.member, fault.detail, fault.offset) == ("0001.jpg", detail, 1024)


@pytest.mark.parametrize("name", ["/etc/0001.jpg", "../0001.jpg", "a/../../0001.jpg"])
def test_reader_names_that_climb_out_are_refused(name: str) -> None:
    assert [reason for _, reason in reasons(archive([(name, b"x"), ("2.jpg", b"x")]))] == ["bad_name", None]


def test_reader_name_in_another_encoding_is_refused() -> None:
    header = bytearray(tar_header("aaaa.jpg", 0))
    header[0:2] = b"\xff\xfe"
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    assert [reason for _, reason in reasons(bytes(header) + archive([("2.jpg", b"x")]))] == ["bad_name", None]


def test_reader_keys_in_turn_are_refused_where_they_come_back() -> None:
    data = archive([("1.jpg", b"x"), ("2.jpg", b"x"), ("1.txt", b"x"), ("2.txt", b"x")])
    assert reasons(data) == [("1", None), ("2", None), ("1", "repeated_key"), ("2", "repeated_key")]


def test_reader_two_members_of_one_kind_are_refused() -> None:
    assert reasons(archive([("1.jpg", b"x"), ("1.JPG", b"y"), ("2.jpg", b"x")])) == [
        ("1", "repeated_member"),
        ("2", None),
    ]


def test_reader_members_beyond_bound_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_headers, "MAX_SAMPLE_BYTES", 3000)
    monkeypatch.setattr(tar_module, "MAX_SAMPLE_BYTES", 3000)
    data = archive(
        [("1.jpg", bytes(5000)), ("1.txt", b"x"), ("2.jpg", bytes(2000)), ("2.txt", bytes(2000)), ("3.jpg", b"x")]
    )
    assert reasons(data) == [("1", "too_large"), ("2", "too_large"), ("3", None)]
    assert all(not sample.members for sample in scan(data)[:2])


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"", "truncated_tar", "an empty file"),
        (b"\x1f\x8b" + bytes(600), "not_a_tar", "gzip-compressed"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "not_a_tar", "zstd-compressed"),
        (b"PK\x03\x04" + bytes(100), "not_a_tar", "zip-compressed"),
        (b"<html>" * 200, "not_a_tar", "checksum"),
        (bytes(1024) + WHOLE, "data_after_end", "behind the end marker"),
        (WHOLE + WHOLE, "data_after_end", "behind the end marker"),
    ],
)
def test_reader_file_that_is_no_plain_tar_names_the_reason(data: bytes, reason: str, detail: str) -> None:
    last = scan(data)[-1]
    assert last.is_place
    assert last.fault is not None
    assert last.fault.reason == reason
    assert detail in last.fault.detail


def test_reader_empty_archive_has_no_samples_and_no_fault() -> None:
    assert scan(archive([])) == []
    assert scan(bytes(512)) == []


def test_reader_damaged_header_ends_reading_there() -> None:
    place = scan(WHOLE)[2].offset
    damaged = WHOLE[: place + 5] + b"!" + WHOLE[place + 6 :]
    keys = [sample.key for sample in scan(WHOLE)]
    assert reasons(damaged) == [(keys[0], None), (keys[1], None), ("", "bad_header")]
    assert scan(damaged)[-1].offset == place


def test_reader_end_without_marker_is_told_apart_from_a_cut() -> None:
    assert reasons(WHOLE[:END])[-1] == ("", "no_end_marker")
    assert reasons(WHOLE[: END - 1])[-1][1] == "truncated_tar"
    assert reasons(WHOLE[: END + 512])[-1][1] is None


def test_reader_sizes_in_base_256_are_read() -> None:
    header = bytearray(tar_header("1.jpg", 5))
    header[124:136] = b"\x80" + (5).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    assert contents(scan(bytes(header) + b"12345" + bytes(507))[0]) == [("1.jpg", b"12345")]


@settings(max_examples=300, deadline=None)
@given(cut=st.integers(0, len(WHOLE) - 1))
def test_reader_cut_anywhere_keeps_samples_before_and_blames_one(cut: int) -> None:
    whole = scan(WHOLE)
    before = [sample for sample in whole if sample.offset + sample.length <= cut]
    found = scan(WHOLE[:cut])
    assert found[: len(before)] == before
    if cut < END:  # later only padding is gone
        faults = [sample.fault for sample in found[len(before) :]]
        assert faults[-1] is not None
        assert faults[-1].reason in ("truncated_tar", "no_end_marker")
        assert len(faults) <= 2


@settings(max_examples=300, deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6), cut=st.integers(0))
def test_reader_damaged_archive_never_raises_and_keeps_its_order(places: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(WHOLE)
    for place, value in places:
        data[place] = value
    found = scan(bytes(data[: len(data) - cut % 4000]))
    offsets = [sample.offset for sample in found]
    assert offsets == sorted(offsets)
    touched = min((place for place, _ in places), default=len(WHOLE))
    intact = [s for s in scan(WHOLE) if s.offset + s.length <= min(touched, len(data) - cut % 4000)]
    assert found[: len(intact)] == intact


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("abcdefghij/é0123456789", min_size=1, max_size=130), st.binary(max_size=1500)),
        max_size=5,
        unique_by=lambda member: member[0],
    )
)
def test_writer_any_members_are_read_back_by_tarfile_and_by_us(members: Members) -> None:
    members = [(f"x{name.strip('/')}.{number}", data) for number, (name, data) in enumerate(members)]
    data = tar_bytes(members)
    assert len(data) % 10240 == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert [(i.name, tar.extractfile(i).read()) for i in tar] == members  # type: ignore[union-attr]
    if members:
        assert read_members(data[: sum(s.length for s in scan(data))]) == members


def test_writer_headers_hold_no_time_and_no_owner() -> None:
    with tarfile.open(fileobj=io.BytesIO(tar_bytes([("1.jpg", b"x")]))) as tar:
        info = tar.getmembers()[0]
    assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (0, 0, 0, "", "", 0o444)


def test_writer_same_members_same_bytes() -> None:
    sink = io.BytesIO()
    writer = TarWriter(sink)
    for name, data in SAMPLES[0]:
        writer.add(name, data)
    writer.close()
    assert sink.getvalue() == tar_bytes(SAMPLES[0])


@pytest.mark.parametrize("start", [1, 512, 100])
def test_read_members_at_a_wrong_place_is_an_error(start: int) -> None:
    sample = scan(WHOLE)[0]
    with pytest.raises(RunError, match="not what the pool's index says"):
        read_members(WHOLE[sample.offset + start : sample.offset + start + 1000])


def test_read_members_of_nothing_is_an_error() -> None:
    with pytest.raises(RunError):
        read_members(b"")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1.jpg", ("1", "jpg")),
        ("a.b/1.JPG", ("a.b/1", "jpg")),
        ("a/1.tar.gz", ("a/1", "tar.gz")),
        ("noext", None),
        (".hidden.jpg", None),
        ("a/.x", None),
        ("1.", None),
    ],
)
def test_split_name_is_webdatasets_rule(name: str, expected: tuple[str, str] | None) -> None:
    assert split_name(name) == expected


NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=140)


@settings(deadline=None)
@given(st.one_of(NAMES, st.sampled_from(["a" * 100, "ä" * 50, "a" * 101, "b/" * 60 + "c"])), st.integers(0, 8**12))
def test_writer_header_is_that_of_pythons_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    try:
        expected = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    except ValueError:
        expected = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    assert tar_header(name, size) == expected


def test_writer_knows_the_digest_of_what_it_wrote() -> None:
    sink = io.BytesIO()
    writer = TarWriter(sink)
    writer.add("1.jpg", b"x" * 700)
    writer.close()
    assert writer.sha256 == hashlib.sha256(sink.getvalue()).hexdigest()


LONG = "long" * 30
NAMES = ["1.jpg", "a/2.txt", "..3.jpg", "a/../4.txt", "/5.jpg", "folder/", ".hidden", "no", "\u00e4.txt", LONG + ".jpg",
         f"{LONG}/{LONG[:80]}.jpg"]  # fmt: skip


@settings(max_examples=200)
@given(
    style=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4),
    damage=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=2),
    cut=st.integers(0, 700),
)
def test_plain_members_are_those_of_the_strict_reader_or_none(style, names, damage, cut) -> None:
    if style == tarfile.USTAR_FORMAT:  # which has no room for a longer name without a folder
        names = [name if len(name) <= 100 or "/" in name else "2.jpg" for name in names]
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=style) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 100 * number
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
    data = bytearray(sink.getvalue()[: sink.getvalue().rindex(bytes(1024))].rstrip(b"\0"))
    data += bytes(-len(data) % 512)
    for place, value in damage:
        data[place % len(data)] = value
    data = bytes(data[: len(data) - cut]) if cut < 300 else bytes(data)
    plain = plain_members(data)
    if plain is not None:
        assert plain == any_members(data)
        assert [(name, bytes(view)) for name, view in plain_members(memoryview(data))] == plain


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_samples_of_usual_archives_are_plain(style: int) -> None:
    data = archive([member for members in SAMPLES for member in members], style=style)
    for sample in scan(data):
        found = plain_members(data[sample.offset : sample.offset + sample.length])
        assert found == contents(sample)


def test_contents_of_a_view_are_views() -> None:
    (sample, *_) = scan(WHOLE)
    view = memoryview(WHOLE)[sample.offset : sample.offset + sample.length]
    for read in (plain_members, any_members, read_members):
        assert all(isinstance(data, memoryview) for _, data in read(view))
        assert [(name, bytes(data)) for name, data in read(view)] == contents(sample)
