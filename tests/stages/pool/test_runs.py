from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.storage import Storage
from stages.pool.runs import (
    Run,
    bits_for,
    bucket_range,
    merge_runs,
    read_bucket,
    run_bits,
    run_bytes,
    run_rows,
    sort_by_uid,
)
from tests.counted_store import counted

SCHEMA = pa.schema({"uid_hi": pa.uint64(), "uid_lo": pa.uint64(), "value": pa.int64()})


def table_of(seed: int, rows: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    hi = np.concatenate([rng.integers(0, 2**64, rows - 2, np.uint64), np.array([0, 2**64 - 1], np.uint64)])
    return pa.table({"uid_hi": hi, "uid_lo": rng.integers(0, 2**64, rows, np.uint64), "value": np.arange(rows)}, SCHEMA)


def put(root: Path, name: str, table: pa.Table, bits: int) -> Run:
    (root / name).write_bytes(run_bytes(sort_by_uid(table), bits))
    return Run(str(root / name), bits)


@pytest.mark.parametrize("cuts", [(0, 0, 0), (2, 2, 2), (0, 2, 5)])
@pytest.mark.parametrize("bits", [0, 1, 3, 6])
def test_read_bucket_of_any_cut_gives_each_row_once(tmp_path: Path, cuts: tuple[int, ...], bits: int) -> None:
    tables = [table_of(seed, 300) for seed in range(3)]
    runs = [put(tmp_path, f"{number}.run", table, cuts[number]) for number, table in enumerate(tables)]
    found = [read_bucket(Storage(), runs, bucket, bits, SCHEMA) for bucket in range(1 << bits)]
    for bucket, table in enumerate(found):
        prefixes = {hi >> (64 - bits) if bits else 0 for hi in table["uid_hi"].to_pylist()}
        assert prefixes <= {bucket}
    everything = sorted(map(tuple, (row.values() for table in found for row in table.to_pylist())))
    assert everything == sorted(map(tuple, (row.values() for table in tables for row in table.to_pylist())))


@pytest.mark.parametrize("bits", [0, 3, 7])
def test_rows_of_a_run_are_those_of_the_table_in_its_order(bits: int) -> None:
    table = sort_by_uid(table_of(0, 300))
    assert run_rows(run_bytes(table, bits), bits, SCHEMA).equals(table)
    assert run_rows(run_bytes(table.slice(0, 0), bits), bits, SCHEMA).num_rows == 0


def test_bucket_asks_for_two_ranges_of_a_run_whatever_the_number_of_prefixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bits in (3, 12):
        run = put(tmp_path, f"{bits}.run", table_of(0, 400), bits)
        with counted(monkeypatch) as store:
            found = read_bucket(Storage(), [run], 5, 3, SCHEMA)
        assert store.traffic.gets == 2
        assert store.traffic.read_bytes < (tmp_path / f"{bits}.run").stat().st_size / 4
        assert set(found["uid_hi"].to_numpy() >> 61) == {5}


@pytest.mark.parametrize(
    ("bits", "to_bits"), [((0, 0, 0), 0), ((0, 0, 0), 4), ((3, 3, 3), 3), ((2, 5, 0), 9), ((5, 7, 6), 3)]
)
def test_merged_runs_are_the_run_of_all_their_rows(bits: tuple[int, ...], to_bits: int) -> None:
    tables = [table_of(seed, 200) for seed in range(3)]  # lowest and highest uid_hi are in each
    runs = [run_bytes(sort_by_uid(table), cut) for table, cut in zip(tables, bits, strict=True)]
    whole = run_bytes(sort_by_uid(pa.concat_tables(tables).combine_chunks(), "value"), to_bits)
    assert merge_runs(runs, SCHEMA, bits=bits, to_bits=to_bits, further=["value"]) == whole


@pytest.mark.parametrize("rows", [0, 100, 1000, 66_000, 270_000])
def test_run_is_cut_into_pieces_of_some_hundred_rows_whatever_the_pool(rows: int) -> None:
    assert rows / 512 <= 1 << run_bits(rows) <= max(1, 2 * rows / 512)


def test_run_without_rows_is_read_as_nothing(tmp_path: Path) -> None:
    run = put(tmp_path, "r.run", SCHEMA.empty_table(), 4)
    assert read_bucket(Storage(), [run], 0, 0, SCHEMA).num_rows == 0


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
