"""Metadata of any shape against what a dictionary of rows would give."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.artifact import ArtifactWriter
from pipeline.errors import UserError
from pipeline.schema import POOL
from pipeline.storage import Stat, Storage
from stages.pool.metadata import (
    MetadataItem,
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
    columns, writer = metadata_schema(Storage(), files), ArtifactWriter(str(tmp_path / "out"), Storage())
    run = put_metadata(MetadataItem(5, files), storage=Storage(), writer=writer, columns=columns, bits=2)
    assert (run.rows, run.num_normalised) == (20, 0)
    found = read_bucket(
        Storage(), [str(tmp_path / "out" / run.path)], 0, 0, run_schema(columns), run_bits=2
    ).to_pylist()
    keys = [f"{row['uid_hi']:016x}{row['uid_lo']:016x}" for row in found]
    assert keys == sorted(uids)
    for key, row in zip(keys, found, strict=True):
        assert (row["x"], row["source_file"]) == (uids.index(key), 5 + uids.index(key) % 2)


def test_put_metadata_of_a_changed_file_is_another_run(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": UIDS}), tmp_path / "0.parquet")
    writer = ArtifactWriter(str(tmp_path / "out"), Storage())
    paths = [
        put_metadata(
            MetadataItem(0, (Stat(str(tmp_path / "0.parquet"), 1, version),)),
            storage=Storage(), writer=writer, columns=pa.schema([]), bits=0,
        ).path
        for version in ("old", "new", "old")
    ]  # fmt: skip
    assert paths[0] == paths[2] != paths[1]


def test_refuse_repeated_of_nothing_passes() -> None:
    refuse_repeated(run_schema(pa.schema([])).empty_table(), [], {})
