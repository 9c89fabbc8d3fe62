"""One bucket's merge and join against dictionaries."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import ArtifactWriter
from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.pool.index import BucketItem, BucketResult, Runs, index_bucket
from stages.pool.metadata import run_schema
from stages.pool.runs import Run, run_bytes, sort_by_uid
from stages.pool.scan import POOL_SCHEMA

COLUMNS = pa.schema({"score": pa.float64()})
BITS = 1
Uid = tuple[int, int]


def hi_of(name: int) -> int:
    """Names 0 to 3 in the first of two buckets, 4 to 7 in the second."""
    return name << 61


def samples(places: list[tuple[int, int, int]]) -> pa.Table:
    """POOL rows of (uid name, shard, block)."""
    numbers = len(places)
    columns: dict[str, Any] = {
        "uid_hi": [hi_of(name) for name, _, _ in places],
        "uid_lo": [name % 2 for name, _, _ in places],
        "shard": [shard for _, shard, _ in places],
        "offset": [block * 512 for _, _, block in places],
        "length": [512] * numbers,
        "key": [f"{shard}-{block}" for _, shard, block in places],
        "image_ext": ["jpg"] * numbers,
    }
    rest = [1] * numbers
    return pa.table({field.name: pa.array(columns.get(field.name, rest), field.type) for field in POOL_SCHEMA})


def metadata(names: list[int]) -> pa.Table:
    columns = {
        "uid_hi": [hi_of(name) for name in names],
        "uid_lo": [name % 2 for name in names],
        "source_file": [name % 3 for name in names],
        "score": [name / 4 for name in names],
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in run_schema(COLUMNS)})


def put(root: Path, name: str, table: pa.Table, *further: str) -> Run:
    (root / name).write_bytes(run_bytes(sort_by_uid(table, *further), 2))
    return Run(str(root / name), 2)


def made(
    root: Path,
    places: list[tuple[int, int, int]],
    names: list[int],
    *,
    broken: tuple[int, ...] = (),
    report_missing: bool = True,
) -> list[BucketResult]:
    """Both buckets, from two runs of samples and two of metadata."""
    runs = Runs(
        samples=tuple(put(root, f"s{n}.parquet", samples(places[n::2]), "shard", "offset") for n in range(2)),
        metadata=tuple(put(root, f"m{n}.parquet", metadata(names[n::2])) for n in range(2)) if names else (),
        columns=COLUMNS,
        metadata_files=("a.parquet", "b.parquet", "c.parquet"),
        bits=BITS,
        report_missing=report_missing,
    )
    writer = ArtifactWriter(str(root / "out"), Storage())
    results = []
    for bucket in range(2):
        inside = [name for name in broken if name // 4 == bucket]
        item = BucketItem(
            bucket,
            np.array([hi_of(name) for name in inside], np.uint64),
            np.array([name % 2 for name in inside], np.uint64),
        )
        results.append(index_bucket(item, runs=runs, storage=Storage(), writer=writer))
    return results


def rows(root: Path, results: list[BucketResult], kind: str) -> list[dict[str, Any]]:
    return [
        row
        for result in results
        for row in Storage().read_table(str(root / "out" / getattr(result, kind).path)).to_pylist()
    ]


places_ = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 2), st.integers(0, 9)), max_size=20, unique_by=lambda p: p[1:]
)


@settings(deadline=None, max_examples=60)
@given(places_, st.lists(st.integers(0, 7), unique=True), st.sets(st.integers(0, 7)), st.booleans())
def test_index_of_any_runs_is_what_dictionaries_give(
    tmp_path_factory: pytest.TempPathFactory,
    places: list[tuple[int, int, int]],
    names: list[int],
    broken: set[int],
    report: bool,
) -> None:
    root = tmp_path_factory.mktemp("index")
    first: dict[int, tuple[int, int]] = {}
    again = []
    for name, shard, block in sorted(places, key=lambda place: place[1:]):
        if name in first:
            again.append((shard, block * 512, f"shard {first[name][0]} has it first, at offset {first[name][1] * 512}"))
        else:
            first[name] = (shard, block)
    results = made(root, places, names, broken=tuple(sorted(broken)), report_missing=report)
    found = [(row["uid_hi"] >> 61, row["shard"], row["offset"], row["score"]) for row in rows(root, results, "index")]
    assert found == [
        (name, shard, block * 512, name / 4 if name in names else None)
        for name, (shard, block) in sorted(first.items())
    ]
    without = sorted(set(names) - set(first)) if report else []
    assert [(row["uid_hi"] >> 61, row["score"]) for row in rows(root, results, "missing")] == [
        (name, name / 4) for name in without
    ]
    assert sum(result.num_missing for result in results) == len(without)
    assert sum(result.num_missing_broken for result in results) == len(set(without) & broken)
    assert sum(result.num_without_metadata for result in results) == (len(set(first) - set(names)) if names else 0)
    duplicates = pa.concat_tables(result.duplicates for result in results).to_pylist()
    assert sorted((row["shard"], row["offset"], row["detail"]) for row in duplicates) == sorted(again)
    assert {row["reason"] for row in duplicates} <= {"duplicate_uid"}


def test_index_metadata_row_twice_names_the_files_and_the_uid(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="several rows for one uid") as raised:
        made(tmp_path, [(1, 0, 0)], [1, 5, 5])
    assert f"uid {hi_of(5):016x}{1:016x} twice" in str(raised.value)
    assert "c.parquet" in str(raised.value)


def test_index_without_metadata_says_nothing_about_it(tmp_path: Path) -> None:
    results = made(tmp_path, [(1, 0, 0), (6, 0, 1)], [])
    assert [row["score"] for row in rows(tmp_path, results, "index")] == [None, None]
    assert sum(result.num_without_metadata + result.num_missing for result in results) == 0


def test_index_duplicate_row_names_member_and_uid(tmp_path: Path) -> None:
    (row,) = made(tmp_path, [(3, 0, 1), (3, 2, 5)], [])[0].duplicates.to_pylist()
    assert (row["member"], row["uid"]) == ("2-5", f"{hi_of(3):016x}{1:016x}")
