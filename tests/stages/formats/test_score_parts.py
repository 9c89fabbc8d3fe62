from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import ArtifactWriter
from pipeline.errors import RunError
from pipeline.schema import SCORES
from pipeline.storage import Storage
from stages.formats.score_parts import merge_bucket, pieces_by_bucket, record_type, split_by_bucket

SCHEMA = pa.schema(list(SCORES.columns.items()))


def table_of(rows: list[tuple[int, int, int]]) -> pa.Table:
    hi, lo, visit = (
        (np.asarray(column, np.uint64) for column in zip(*rows, strict=True)) if rows else (np.empty(0, np.uint64),) * 3
    )
    columns = {
        "uid_hi": hi.astype(np.uint64),
        "uid_lo": lo.astype(np.uint64),
        "visit": visit.astype(np.uint16),
        "step": (visit.astype(np.int32) * 10),
        "score": (lo.astype(np.float64) / 3).astype(np.float32),
    }
    return pa.table(columns, schema=SCHEMA)


def gather(root: Path, tables: list[pa.Table], bits: int) -> list[pa.Table]:
    writer = ArtifactWriter(str(root), Storage())
    parts = [split_by_bucket(table, writer, f"part-{number}", bits) for number, table in enumerate(tables)]
    merge = partial(merge_bucket, writer=writer, schema=SCHEMA)
    merged = [merge(pieces) for pieces in pieces_by_bucket(parts, bits)]
    return [Storage().read_table(str(root / bucket.file.path)) for bucket in merged]


high = st.integers(0, 15).map(lambda nibble: nibble << 60 | nibble)
keys = st.lists(st.tuples(high, st.integers(0, 5), st.integers(0, 3)), max_size=40, unique=True)


@settings(deadline=None, max_examples=40)
@given(keys, st.integers(0, 4), st.integers(1, 4), st.randoms(use_true_random=False))
def test_rows_split_anyhow_end_sorted_in_their_buckets(
    tmp_path_factory: pytest.TempPathFactory, rows: list, bits: int, num_parts: int, random: object
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    tables = [table_of(shuffled[part::num_parts]) for part in range(num_parts)]
    buckets = gather(tmp_path_factory.mktemp("gather"), tables, bits)
    expected = table_of(sorted(rows))
    assert pa.concat_tables(buckets).equals(expected)
    assert len(buckets) == 1 << bits
    for number, bucket in enumerate(buckets):
        assert bucket.schema.equals(SCHEMA)
        assert all(hi >> (64 - bits) == number if bits else True for hi in bucket["uid_hi"].to_pylist())


def test_merge_counts_distinct_uids_and_visits(tmp_path: Path) -> None:
    writer = ArtifactWriter(str(tmp_path), Storage())
    part = split_by_bucket(table_of([(1, 1, 0), (1, 1, 2), (1, 2, 0)]), writer, "x", 1)
    (low, high_) = pieces_by_bucket([part], 1)
    merged = merge_bucket(low, writer=writer, schema=SCHEMA)
    assert (merged.file.path, merged.file.rows, merged.scored, merged.visits) == ("bucket-00000.parquet", 3, 2, 3)
    empty = merge_bucket(high_, writer=writer, schema=SCHEMA)
    assert (empty.file.rows, empty.scored, empty.visits) == (0, 0, 0)


def test_bucket_reads_only_its_own_range(tmp_path: Path) -> None:
    writer = ArtifactWriter(str(tmp_path), Storage())
    part = split_by_bucket(table_of([(bucket << 62, n, 0) for bucket in range(4) for n in range(5)]), writer, "x", 2)
    path = Path(part.uri)
    size = record_type(SCHEMA).itemsize
    assert size == 8 + 8 + 2 + 4 + 4
    data = path.read_bytes()
    path.write_bytes(b"\xff" * (10 * size) + data[10 * size : 15 * size] + b"\xff" * (5 * size))
    merged = merge_bucket(pieces_by_bucket([part], 2)[2], writer=writer, schema=SCHEMA)
    assert Storage().read_table(str(tmp_path / merged.file.path))["uid_lo"].to_pylist() == [0, 1, 2, 3, 4]


def test_same_uid_and_visit_twice_is_an_error_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"uid 00000000000000070000000000000009, visit 3") as error:
        gather(tmp_path, [table_of([(7, 9, 3), (7, 9, 2)]), table_of([(7, 9, 3)])], 2)
    assert "bucket-00000.parquet" in str(error.value)


def test_same_uid_in_other_visits_is_fine(tmp_path: Path) -> None:
    (bucket,) = gather(tmp_path, [table_of([(7, 9, 1)]), table_of([(7, 9, 0)])], 0)
    assert bucket["visit"].to_pylist() == [0, 1]


def test_nothing_at_all_gives_empty_buckets(tmp_path: Path) -> None:
    assert [bucket.num_rows for bucket in gather(tmp_path, [], 2)] == [0, 0, 0, 0]
