"""Manifests, digests and parts."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import artifact as artifact_module
from pipeline.artifact import (
    Artifact,
    ArtifactWriter,
    Counts,
    FileEntry,
    Manifest,
    canonical_json,
    parquet_bytes,
    sha256_hex,
)
from pipeline.errors import RunError
from pipeline.storage import AlreadyExistsError, Storage

TABLE = pa.table({"uid_hi": pa.array([1, 2, 3], pa.uint64()), "vote": pa.array([1, 0, -1], pa.int8())})


def _manifest(**changes: object) -> Manifest:
    files = (FileEntry("b", 2, 20, "22"), FileEntry("a", 1, 10, "11"), FileEntry("when", 0, 5, "33", volatile=True))
    base = Manifest("votes", "f" * 64, {"pool": "1" * 64}, files, {"rows": 3}, Counts(3, 2, {"rule": 1}))
    return replace(base, **changes)  # type: ignore[arg-type]


def test_manifest_written_and_parsed_is_equal() -> None:
    manifest = _manifest(made_by={"seconds": 1.5})
    assert Manifest.from_json(manifest.to_json(), "x") == manifest


@pytest.mark.parametrize("path", ["artifact", "fingerprint", "summary", "files", "content", "counts", "inputs"])
def test_manifest_changed_in_any_field_is_refused(path: str) -> None:
    body = json.loads(_manifest().to_json())
    body[path] = {"rows": 4} if path in ("summary", "counts", "inputs") else ([] if path == "files" else "other")
    with pytest.raises(RunError, match="changed after it was written"):
        Manifest.from_json(canonical_json(body), "runs/x/manifest.json")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"digest": "1"}', b"\xff\xfe", b"null"])
def test_manifest_that_is_none_is_refused_with_its_place(data: bytes) -> None:
    with pytest.raises(RunError, match="not a manifest") as caught:
        Manifest.from_json(data, "runs/x/manifest.json")
    assert "runs/x/manifest.json" in str(caught.value)


def test_manifest_of_a_later_format_is_refused() -> None:
    body = {"format": 99, "content": "c", "digest": "d"}
    with pytest.raises(RunError, match="another format"):
        Manifest.from_json(canonical_json(body), "x")


def test_content_digest_knows_files_and_summary_but_not_who_made_them() -> None:
    base = _manifest().content
    assert _manifest(made_by={"seconds": 9}).content == base
    assert _manifest(fingerprint="0" * 64).content == base
    assert _manifest(files=tuple(reversed(_manifest().files))).content == base
    without_volatile = tuple(file for file in _manifest().files if not file.volatile)
    assert _manifest(files=without_volatile).content == base
    assert _manifest(summary={"rows": 4}).content != base
    assert _manifest(files=(FileEntry("a", 1, 10, "12"),)).content != base


def test_content_digest_has_its_golden_value() -> None:
    assert _manifest().content == sha256_hex(b'[1,"votes",[["a",1,10,"11"],["b",2,20,"22"]],{"rows":3}]')


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=6))
def test_canonical_json_is_independent_of_insertion_order(value: dict[str, object]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert canonical_json(value) == canonical_json(backwards)
    assert json.loads(canonical_json(value)) == value


def test_canonical_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"loss": float("nan")})


@given(
    out=st.integers(0, 10**12),
    dropped=st.dictionaries(st.text(max_size=3), st.integers(0, 10**9), max_size=3),
    quarantined=st.integers(0, 10**6),
    lost=st.integers(-5, 5),
)
def test_counts_pass_only_when_they_add_up(out: int, dropped: dict[str, int], quarantined: int, lost: int) -> None:
    counts = Counts(out + sum(dropped.values()) + quarantined + lost, out, dropped, quarantined)
    if lost == 0:
        counts.check("select")
    else:
        with pytest.raises(RunError, match="unaccounted"):
            counts.check("select")


def test_writer_puts_tables_that_read_back_with_rows_and_digest(tmp_path: Path) -> None:
    writer = ArtifactWriter(str(tmp_path), Storage())
    entry = writer.put_table("bucket-00000.parquet", TABLE)
    assert entry.rows == 3
    assert entry.sha256 == sha256_hex((tmp_path / entry.path).read_bytes())
    artifact = Artifact(str(tmp_path), _manifest(files=(entry,)), Storage())
    assert artifact.read_table(entry.path).equals(TABLE)
    assert [table.num_rows for table in artifact.tables("bucket-")] == [3]


def test_writer_repeats_a_part_quietly_and_refuses_a_different_one(tmp_path: Path) -> None:
    writer = ArtifactWriter(str(tmp_path), Storage())
    first = writer.put_table("part", TABLE)
    assert writer.put_table("part", TABLE) == first
    with pytest.raises(AlreadyExistsError):
        writer.put_table("part", TABLE.slice(1))
    local = tmp_path / "local"
    local.write_bytes(b"tar")
    writer.put_file("shard.tar", local, rows=1)
    local.write_bytes(b"tar")
    writer.put_file("shard.tar", local, rows=1)
    local.write_bytes(b"rat")
    with pytest.raises(AlreadyExistsError, match=r"shard\.tar"):
        writer.put_file("shard.tar", local, rows=1)


def test_writer_of_deliverables_replaces(tmp_path: Path) -> None:
    writer = ArtifactWriter(str(tmp_path), Storage(), overwrite=True)
    writer.put_bytes("index.html", b"old")
    assert writer.put_bytes("index.html", b"new").bytes == 3
    assert (tmp_path / "index.html").read_bytes() == b"new"


def test_parts_named_by_content_never_meet(tmp_path: Path) -> None:
    writer = ArtifactWriter(str(tmp_path), Storage())
    one = writer.put_table_by_content("ledger/rank-0", TABLE)
    other = writer.put_table_by_content("ledger/rank-0", TABLE.slice(1))
    assert one.path != other.path
    assert one.path == f"ledger/rank-0-{one.sha256[:16]}.parquet"
    assert writer.put_table_by_content("ledger/rank-0", TABLE) == one


def test_listed_file_with_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    entry = ArtifactWriter(str(tmp_path), Storage()).put_json("check.json", {"spearman": 0.5})
    artifact = Artifact(str(tmp_path), _manifest(files=(entry,)), Storage())
    assert artifact.read_json("check.json") == {"spearman": 0.5}
    (tmp_path / "check.json").write_bytes(b'{"spearman":0.6}')
    with pytest.raises(RunError, match="damaged") as caught:
        artifact.read_json("check.json")
    assert str(tmp_path / "check.json") in str(caught.value)


@pytest.mark.parametrize("columns", [None, ["vote"]])
def test_small_table_with_any_byte_flipped_is_refused(tmp_path: Path, columns: list[str] | None) -> None:
    entry = ArtifactWriter(str(tmp_path), Storage()).put_table("t.parquet", TABLE)
    artifact = Artifact(str(tmp_path), _manifest(files=(entry,)), Storage())
    data = (tmp_path / "t.parquet").read_bytes()
    for place in range(0, len(data), 7):
        (tmp_path / "t.parquet").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(RunError, match="damaged") as caught:
            artifact.read_table("t.parquet", columns)
        assert "t.parquet" in str(caught.value)


def test_large_table_read_in_part_is_refused_for_a_damaged_page_or_column_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_module, "WHOLE_BYTES", 0)
    table = pa.table({"noise": pa.array(range(10_000), pa.int64()), "score": pa.array(range(10_000), pa.float32())})
    entry = ArtifactWriter(str(tmp_path), Storage()).put_table("t.parquet", table)
    artifact = Artifact(str(tmp_path), _manifest(files=(entry,)), Storage())
    data = (tmp_path / "t.parquet").read_bytes()
    assert artifact.read_table("t.parquet", ["score"]).equals(table.select(["score"]))
    middle = len(data) // 4
    (tmp_path / "t.parquet").write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with pytest.raises(RunError, match="damaged"):
        artifact.read_table("t.parquet", ["noise"])
    footer = len(data) - 1000
    (tmp_path / "t.parquet").write_bytes(data[:footer] + data[footer:].replace(b"score", b"scorf"))
    with pytest.raises(RunError, match="columns score"):
        artifact.read_table("t.parquet", ["noise", "score"])
    with pytest.raises(RunError, match="damaged"):
        artifact.read_table("t.parquet")  # all of it: held against its digest however large


def test_file_that_no_manifest_lists_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "stray.parquet").write_bytes(parquet_bytes(TABLE))
    with pytest.raises(FileNotFoundError):
        Artifact(str(tmp_path), _manifest(files=()), Storage()).read_table("stray.parquet")


def test_equal_tables_are_equal_bytes_whatever_their_chunks_and_metadata() -> None:
    chunked = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)]).replace_schema_metadata({"made": "yesterday"})
    assert parquet_bytes(chunked.combine_chunks()) == parquet_bytes(TABLE)
