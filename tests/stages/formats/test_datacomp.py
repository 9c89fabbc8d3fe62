import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.formats.datacomp import SampleError, read_metadata, sample_parts
from stages.formats.tar import Sample, ShardReader
from tests.stages.pool.pools import Members, Pair, archive, uid_of

UID = uid_of(3)


def sample(members: Members) -> Sample:
    return next(iter(ShardReader(io.BytesIO(archive(members)))))


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_parts_whole_sample_has_uid_image_and_caption() -> None:
    parts = sample_parts(sample(Pair("1", UID, "ein grüner Vierer").members()))
    assert (parts.uid, parts.caption, parts.image.name, parts.uid_changed) == (UID, "ein grüner Vierer", "1.jpg", False)


@pytest.mark.parametrize("stored", ["ABCDEF" + "0" * 26, "7", "00Ff"])
def test_parts_short_or_upper_case_uid_is_normalised(stored: str) -> None:
    parts = sample_parts(sample(Pair("1", stored).members()))
    assert parts.uid == f"{int(stored, 16):032x}"
    assert parts.uid_changed


@pytest.mark.parametrize("ext", ["jpg", "jpeg", "png", "webp", "JPG"])
def test_parts_image_of_each_accepted_ending_is_found(ext: str) -> None:
    parts = sample_parts(sample([(f"1.{ext}", b"x"), ("1.json", body(uid=UID)), ("1.txt", b"c")]))
    assert parts.image.ext == ext.lower()


def test_parts_caption_falls_back_to_json() -> None:
    parts = sample_parts(sample([("1.jpg", b"x"), ("1.json", body(uid=UID, caption="in json"))]))
    assert parts.caption == "in json"


def test_parts_empty_caption_is_a_caption() -> None:
    assert sample_parts(sample([("1.jpg", b"x"), ("1.json", body(uid=UID)), ("1.txt", b"")])).caption == ""


@pytest.mark.parametrize(
    ("members", "reason", "member"),
    [
        ([("1.json", body(uid=UID)), ("1.txt", b"c")], "no_image", "1"),
        ([("1.gif", b"x"), ("1.json", body(uid=UID)), ("1.txt", b"c")], "no_image", "1"),
        ([("1.jpg", b"x"), ("1.json", body(uid=UID, caption=None))], "no_caption", "1"),
        ([("1.jpg", b"x"), ("1.json", body(uid=UID, caption=["a"]))], "bad_caption", "1.json"),
        ([("1.jpg", b"x"), ("1.json", b'{"uid": "%s", "caption": "\\ud800"}' % UID.encode())], "bad_caption", "1.json"),
        ([("1.jpg", b"x"), ("1.json", body(uid=UID)), ("1.txt", b"\xff\xfe")], "bad_caption", "1.txt"),
        ([("1.jpg", b"x"), ("1.txt", b"c")], "no_uid", "1"),
        ([("1.jpg", b"x"), ("1.json", body(url="u")), ("1.txt", b"c")], "no_uid", "1"),
        ([("1.jpg", b"x"), ("1.json", body(uid="")), ("1.txt", b"c")], "no_uid", "1"),
        ([("1.jpg", b"x"), ("1.json", body(uid=7)), ("1.txt", b"c")], "bad_uid", "1"),
        ([("1.jpg", b"x"), ("1.json", body(uid="f" * 33)), ("1.txt", b"c")], "bad_uid", "1"),
        ([("1.jpg", b"x"), ("1.json", body(uid="0x12")), ("1.txt", b"c")], "bad_uid", "1"),
        ([("1.jpg", b"x"), ("1.json", body(uid=UID + "\n")), ("1.txt", b"c")], "bad_uid", "1"),
        ([("1.jpg", b"x"), ("1.json", b"{"), ("1.txt", b"c")], "bad_json", "1.json"),
        ([("1.jpg", b"x"), ("1.json", b"[]"), ("1.txt", b"c")], "bad_json", "1.json"),
        ([("1.jpg", b"x"), ("1.json", b"\xff\x00"), ("1.txt", b"c")], "bad_json", "1.json"),
        ([("1.jpg", b"x"), ("1.json", b"[" * 100_000), ("1.txt", b"c")], "bad_json", "1.json"),
        ([("1.jpg", b"x"), ("1.json", b'{"uid": %s}' % (b"9" * 5000)), ("1.txt", b"c")], "bad_json", "1.json"),
    ],
)
def test_parts_incomplete_sample_names_reason_and_member(members: Members, reason: str, member: str) -> None:
    with pytest.raises(SampleError) as raised:
        sample_parts(sample(members))
    assert (raised.value.reason, raised.value.member) == (reason, member)
    assert raised.value.uid == (UID if reason in ("no_image", "no_caption", "bad_caption") else None)


def written(path: Path, table: pa.Table) -> str:
    pq.write_table(table, path)
    return str(path)


def test_metadata_uids_become_halves_and_types_stay(tmp_path: Path) -> None:
    table = pa.table(
        {
            "url": ["a", None],
            "uid": [UID, "AB"],
            "score": pa.array([0.25, None], pa.float32()),
            "face_bboxes": pa.array([[[0.0, 1.0]], []], pa.list_(pa.list_(pa.float64()))),
        }
    )
    metadata = read_metadata(Storage(), written(tmp_path / "m.parquet", table))
    assert metadata.table["uid_hi"].to_pylist() == [int(UID[:16], 16), 0]
    assert metadata.table["uid_lo"].to_pylist() == [int(UID[16:], 16), 0xAB]
    assert metadata.num_normalised == 1
    assert metadata.table.drop_columns(["uid_hi", "uid_lo"]).equals(table.drop_columns(["uid"]))


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_metadata_uid_of_each_text_type_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    uids = pa.array([UID, uid_of(9)]).cast(kind)
    metadata = read_metadata(Storage(), written(tmp_path / "m.parquet", pa.table({"uid": uids})))
    assert metadata.table["uid_lo"].to_pylist() == [int(UID[16:], 16), int(uid_of(9)[16:], 16)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"UID": [UID]}), "without a `uid` column"),
        (pa.table({"uid": pa.array([1, 2])}), "`uid` is not text"),
        (pa.table({"uid": [UID, None]}), "bad uid"),
        (pa.table({"uid": [UID, ""]}), "bad uid"),
        (pa.table({"uid": [UID, "xyz"]}), "row 1"),
    ],
)
def test_metadata_that_cannot_be_joined_is_refused(tmp_path: Path, table: pa.Table, message: str) -> None:
    path = written(tmp_path / "m.parquet", table)
    with pytest.raises(UserError, match=message) as raised:
        read_metadata(Storage(), path)
    assert path in str(raised.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_metadata_cut_file_is_refused(tmp_path: Path, share: float) -> None:
    path = Path(written(tmp_path / "m.parquet", pa.table({"uid": [uid_of(n) for n in range(500)]})))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match="not a Parquet file"):
        read_metadata(Storage(), str(path))


def test_metadata_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = Path(written(tmp_path / "m.parquet", pa.table({"uid": [uid_of(n) for n in range(500)]})))
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="cannot be read"):
        read_metadata(Storage(), str(path))
