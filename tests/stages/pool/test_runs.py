from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.artifact import ArtifactWriter
from pipeline.storage import Storage
from stages.pool.runs import bits_for, bucket_range, merge_runs, put_run, read_bucket, sort_by_uid
from tests.counted_store import counted

SCHEMA = pa.schema({"uid_hi": pa.uint64(), "uid_lo": pa.uint64(), "value": pa.int64()})


def table_of(seed: int, rows: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    hi = np.concatenate([rng.integers(0, 2**64, rows - 2, np.uint64), np.array([0, 2**64 - 1], np.uint64)])
    return pa.table({"uid_hi": hi, "uid_lo": rng.integers(0, 2**64, rows, np.uint64), "value": np.arange(rows)}, SCHEMA)


@pytest.mark.parametrize("run_bits", [0, 2, 5])
@pytest.mark.parametrize("bits", [0, 1, 3, 6])
def test_read_bucket_of_any_cut_gives_each_row_once(tmp_path: Path, run_bits: int, bits: int) -> None:
    writer = ArtifactWriter(str(tmp_path), Storage())
    tables = [table_of(seed, 300) for seed in range(3)]
    for number, table in enumerate(tables):
        put_run(writer, f"{number}.parquet", sort_by_uid(table), run_bits)
    uris = [str(tmp_path / f"{number}.parquet") for number in range(3)]
    found = [read_bucket(Storage(), uris, bucket, bits, SCHEMA, run_bits=run_bits) for bucket in range(1 << bits)]
    for bucket, table in enumerate(found):
        prefixes = {hi >> (64 - bits) if bits else 0 for hi in table["uid_hi"].to_pylist()}
        assert prefixes <= {bucket}
    everything = sorted(map(tuple, (row.values() for table in found for row in table.to_pylist())))
    assert everything == sorted(map(tuple, (row.values() for table in tables for row in table.to_pylist())))


def test_bucket_asks_for_two_ranges_of_a_run_whatever_the_number_of_prefixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = sort_by_uid(table_of(0, 400))
    for bits in (3, 12):
        put_run(ArtifactWriter(str(tmp_path), Storage()), f"{bits}.run", table, bits)
        with counted(monkeypatch) as store:
            found = read_bucket(Storage(), [str(tmp_path / f"{bits}.run")], 5, 3, SCHEMA, run_bits=bits)
        assert store.traffic.gets == 2
        assert store.traffic.read_bytes < (tmp_path / f"{bits}.run").stat().st_size / 4
        assert set(found["uid_hi"].to_numpy() >> 61) == {5}


@pytest.mark.parametrize(("bits", "to_bits"), [(0, 0), (0, 4), (3, 3), (2, 9)])
def test_merged_runs_are_the_run_of_all_their_rows(tmp_path: Path, bits: int, to_bits: int) -> None:
    writer = ArtifactWriter(str(tmp_path), Storage())
    tables = [table_of(seed, 200) for seed in range(3)]  # lowest and highest uid_hi are in each
    for number, table in enumerate(tables):
        put_run(writer, f"{number}.run", sort_by_uid(table), bits)
    runs = [(tmp_path / f"{number}.run").read_bytes() for number in range(3)]
    put_run(writer, "whole.run", sort_by_uid(pa.concat_tables(tables).combine_chunks(), "value"), to_bits)
    merged = merge_runs(runs, SCHEMA, bits=bits, to_bits=to_bits, further=["value"])
    assert merged == (tmp_path / "whole.run").read_bytes()


def test_put_run_without_rows_is_read_as_nothing(tmp_path: Path) -> None:
    put_run(ArtifactWriter(str(tmp_path), Storage()), "r.parquet", SCHEMA.empty_table(), 4)
    assert read_bucket(Storage(), [str(tmp_path / "r.parquet")], 0, 0, SCHEMA, run_bits=4).num_rows == 0


def test_sort_by_uid_keeps_order_of_equal_rows_and_uses_further_columns() -> None:
    table = pa.table({"uid_hi": [1, 1, 0], "uid_lo": [5, 5, 9], "value": [3, 2, 1]}, SCHEMA)
    assert sort_by_uid(table)["value"].to_pylist() == [1, 3, 2]
    assert sort_by_uid(table, "value")["value"].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("rows", "bucket_rows", "bits"),
    [(0, 10, 0), (10, 10, 0), (11, 10, 1), (80, 10, 3), (81, 10, 4), (128 * 10**6, 2 * 10**6, 6)],
)
def test_bits_for_rows_bounds_the_mean_bucket(rows: int, bucket_rows: int, bits: int) -> None:
    assert bits_for(rows, bucket_rows) == bits
    assert rows <= bucket_rows << bits


@pytest.mark.parametrize(("metadata_bytes", "bits"), [(0, 1), (2 << 30, 1), ((2 << 30) + 1, 2), (5 << 40, 13)])
def test_bits_for_long_metadata_bounds_its_bytes_in_a_bucket(metadata_bytes: int, bits: int) -> None:
    assert bits_for(20, 10, metadata_bytes) == bits
    assert metadata_bytes <= (1 << 30) << bits


def test_bucket_ranges_cover_all_uids_without_overlap() -> None:
    ranges = [bucket_range(bucket, 2) for bucket in range(4)]
    assert [(a.as_py(), b.as_py()) for a, b in ranges] == [(n << 62, ((n + 1) << 62) - 1) for n in range(4)]
