"""Metadata of any shape against what a dictionary of rows would give."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.reuse import Entries
from pipeline.schema import POOL
from pipeline.storage import Stat, Storage
from stages.pool import metadata
from stages.pool.metadata import (
    METADATA,
    MetadataItem,
    MetadataRun,
    group_files,
    metadata_schema,
    put_metadata,
    refuse_repeated,
    run_schema,
)
from stages.pool.runs import read_bucket
from tests.artifacts import listed
from tests.stages.pool.indexing import index, rows
from tests.stages.pool.pools import plain_pool, uid_of

UIDS = [uid_of(n) for n in range(3)]


def joined(root: Path, *tables: pa.Table) -> dict[str, list[Any]]:
    """Metadata columns of the index of three samples, by their number."""
    plain_pool(root / "shards", num_shards=1, per_shard=3)
    (root / "meta").mkdir()
    for number, table in enumerate(tables):
        pq.write_table(table, root / f"meta/{number}.parquet")
    found = {row["uid"]: row for row in rows(index(root))}
    names = [name for name in found[UIDS[0]] if name not in POOL.columns and name != "uid"]
    return {name: [found[uid][name] for uid in UIDS] for name in names}


def two_files(first: pa.Array, rest: pa.Array) -> list[pa.Table]:
    return [pa.table({"uid": UIDS[:1], "x": first}), pa.table({"uid": UIDS[1:], "x": rest})]


@pytest.mark.parametrize(
    ("first", "rest", "kind"),
    [
        (pa.array([7], pa.int8()), pa.array([2**40, None]), "int64"),
        (pa.array([7], pa.uint32()), pa.array([-1, None], pa.int32()), "int64"),
        (pa.array([0.5], pa.float32()), pa.array([0.1, None]), "double"),
        (pa.array([3]), pa.array([0.25, None]), "double"),
        (pa.nulls(1), pa.array(["a", None]), "string"),
        (pa.array(["ä"], pa.large_string()), pa.array(["b", None]), "large_string"),
        (pa.array([[]], pa.list_(pa.null())), pa.array([[[0.5]], None]), "list<element: list<element: double>>"),
        (pa.array([True]), pa.array([False, None]), "bool"),
    ],
)
def test_join_files_of_unlike_types_keeps_each_value(
    tmp_path: Path, first: pa.Array, rest: pa.Array, kind: str
) -> None:
    found = joined(tmp_path, *two_files(first, rest))
    assert found == {"x": [*first.to_pylist(), *rest.to_pylist()]}
    schema = metadata_schema(Storage(), listed(tmp_path / "meta", ".parquet").files)
    assert str(schema.field("x").type) == kind


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (pa.array([2**60 + 1]), pa.array([0.5, 0.25])),  # a double would round it
        (pa.array([2**63 + 5], pa.uint64()), pa.array([-1, 2])),
    ],
)
def test_join_value_that_the_common_type_cannot_hold_is_refused_by_file(
    tmp_path: Path, first: pa.Array, rest: pa.Array
) -> None:
    with pytest.raises(UserError, match="do not fit the type") as raised:
        joined(tmp_path, *two_files(first, rest))
    assert "0.parquet" in str(raised.value)


@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary_view(), pa.dictionary(pa.int32(), pa.string())])
def test_join_text_in_any_layout_is_taken(tmp_path: Path, kind: pa.DataType) -> None:
    plain = pa.array(["a", "b", None])
    values = plain.cast(pa.binary()).cast(kind) if kind == pa.binary_view() else plain.cast(kind)
    found = joined(tmp_path, pa.table({"uid": UIDS, "x": values}))
    assert found == {"x": [b"a", b"b", None] if kind == pa.binary_view() else ["a", "b", None]}


def test_join_column_declared_without_nulls_is_null_where_a_row_is_missing(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("uid", pa.string(), nullable=False), pa.field("x", pa.int64(), nullable=False)])
    found = joined(tmp_path, pa.table({"uid": UIDS[:2], "x": [4, 5]}, schema))
    assert found == {"x": [4, 5, None]}


def test_join_file_without_rows_still_declares_its_columns(tmp_path: Path) -> None:
    empty = pa.table({"uid": pa.array([], pa.string()), "extra": pa.array([], pa.int16())})
    assert joined(tmp_path, empty, pa.table({"uid": UIDS, "x": [1, 2, 3]})) == {"extra": [None] * 3, "x": [1, 2, 3]}


def test_join_every_column_of_our_own_names_is_renamed(tmp_path: Path) -> None:
    names = [name for name in POOL.columns if name not in ("uid_hi", "uid_lo")]
    found = joined(tmp_path, pa.table({"uid": UIDS, **{name: ["theirs"] * 3 for name in [*names, "source_file"]}}))
    assert set(found) == {f"metadata_{name}" for name in [*names, "source_file"]}
    assert all(values == ["theirs"] * 3 for values in found.values())


@pytest.mark.parametrize(
    ("names", "twice"), [(["uid", "x", "x"], "x"), (["uid", "key", "metadata_key"], "metadata_key")]
)
def test_join_two_columns_of_one_name_are_refused(tmp_path: Path, names: list[str], twice: str) -> None:
    table = pa.Table.from_arrays([pa.array(UIDS), pa.array([1, 2, 3]), pa.array([4, 5, 6])], names=names)
    with pytest.raises(UserError, match="two columns of the same name") as raised:
        joined(tmp_path, table)
    assert f"found: {twice}" in str(raised.value)
    assert "0.parquet" in str(raised.value)


def stat_of(number: int, size: int) -> Stat:
    return Stat(f"{number}.parquet", size, "v")


def test_group_files_are_consecutive_and_about_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.pool.metadata._GROUP_BYTES", 100)
    files = [stat_of(number, size) for number, size in enumerate([60, 60, 10, 500, 30, 30, 30, 30, 1])]
    groups = group_files(files)
    assert [(item.first, len(item.files)) for item in groups] == [(0, 2), (2, 2), (4, 4), (8, 1)]
    assert [stat for item in groups for stat in item.files] == files
    assert group_files([]) == []


def test_put_metadata_sorts_by_uid_and_remembers_the_file_of_each_row(tmp_path: Path) -> None:
    uids = [uid_of(n) for n in range(20)]
    for number in (0, 1):
        pq.write_table(
            pa.table({"uid": uids[number::2], "x": list(range(number, 20, 2))}), tmp_path / f"{number}.parquet"
        )
    files = tuple(Storage().stat(str(tmp_path / f"{number}.parquet")) for number in (0, 1))
    columns = metadata_schema(Storage(), files)
    run = put(tmp_path, MetadataItem(5, files), columns)
    assert (run.rows, run.num_normalised) == (20, 0)
    found = read_bucket(Storage(), [run.run], 0, 0, run_schema(columns)).to_pylist()
    keys = [f"{row['uid_hi']:016x}{row['uid_lo']:016x}" for row in found]
    assert keys == sorted(uids)
    for key, row in zip(keys, found, strict=True):
        assert (row["x"], row["source_file"]) == (uids.index(key), 5 + uids.index(key) % 2)


def put(root: Path, item: MetadataItem, columns: pa.Schema, store: str = "store") -> MetadataRun:
    entries = Entries.of(str(root / store), METADATA, Storage())
    return put_metadata(item, root=str(root), storage=Storage(), entries=entries, columns=columns)


def test_put_metadata_of_a_changed_file_is_another_run(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": UIDS}), tmp_path / "0.parquet")
    names = [
        put(tmp_path, MetadataItem(0, (Stat(str(tmp_path / "0.parquet"), 1, version),)), pa.schema([])).entry
        for version in ("old", "new", "old")
    ]
    assert names[0] == names[2] != names[1]


def test_put_metadata_of_files_that_grew_reads_the_new_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        pq.write_table(pa.table({"uid": UIDS[number : number + 1], "x": [number]}), tmp_path / f"{number}.parquet")
    files = listed(tmp_path, ".parquet").files
    columns = metadata_schema(Storage(), files)
    put(tmp_path, MetadataItem(0, files[:2]), columns)
    read: list[str] = []
    whole = metadata.read_metadata
    monkeypatch.setattr(metadata, "read_metadata", lambda storage, uri: (read.append(uri), whole(storage, uri))[1])
    grown = put(tmp_path, MetadataItem(0, files), columns)
    assert read == [files[2].uri]
    scratch = put(tmp_path, MetadataItem(0, files), columns, store="scratch")
    assert (grown.entry, grown.rows) == (scratch.entry, scratch.rows)
    assert Path(grown.run.uri).read_bytes() == Path(scratch.run.uri).read_bytes()


def test_put_metadata_whose_columns_changed_is_read_again(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": UIDS, "x": [1, 2, 3]}), tmp_path / "0.parquet")
    item = MetadataItem(0, listed(tmp_path, ".parquet").files)
    narrow, wide = (put(tmp_path, item, pa.schema({"x": kind})) for kind in (pa.int64(), pa.float64()))
    assert narrow.entry != wide.entry
    rows = read_bucket(Storage(), [wide.run], 0, 0, run_schema(pa.schema({"x": pa.float64()})))
    assert rows["x"].type == pa.float64()


def test_refuse_repeated_of_nothing_passes() -> None:
    refuse_repeated(run_schema(pa.schema([])).empty_table(), [], {})
