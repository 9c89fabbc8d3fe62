from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import ArtifactWriter
from pipeline.schema import ORDER
from pipeline.storage import Storage
from stages.pool.order import OrderItem, put_order

places = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), unique=True, max_size=25)


def group(root: Path, rows: list[tuple[int, int]]) -> str:
    """A group's own file: its samples by (shard, block), with a column more than the order has."""
    columns = {
        "uid_hi": range(len(rows)),
        "uid_lo": range(len(rows)),
        "shard": [shard for shard, _ in rows],
        "offset": [block * 512 for _, block in rows],
        "length": [512] * len(rows),
    }
    table = pa.table({name: pa.array(columns[name], kind) for name, kind in ORDER.columns.items()})
    path = root / "work.parquet"
    pq.write_table(table.append_column("extra", pa.array(range(len(rows)))), path)
    return str(path)


def ordered(root: Path, rows: list[tuple[int, int]], gone: list[tuple[int, int]]) -> pa.Table:
    shard = np.array([shard for shard, _ in gone], np.uint32)
    offset = np.array([block * 512 for _, block in gone], np.uint64)
    item = OrderItem(7, group(root, rows), "digest of the shards", shard, offset)
    entry = put_order(item, storage=Storage(), writer=ArtifactWriter(str(root / "out"), Storage()))
    assert (entry.path, entry.inputs) == ("order/part-00007.parquet", "digest of the shards")
    table = Storage().read_table(str(root / "out" / entry.path))
    assert entry.rows == table.num_rows
    return table


@settings(deadline=None, max_examples=40)
@given(places, places)
def test_order_is_all_samples_but_the_duplicates(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int]], gone: list[tuple[int, int]]
) -> None:
    rows = sorted(rows)
    table = ordered(tmp_path_factory.mktemp("order"), rows, gone)
    found = list(zip(table["shard"].to_pylist(), table["offset"].to_pylist(), strict=True))
    assert found == [(shard, block * 512) for shard, block in rows if (shard, block) not in set(gone)]
    ORDER.check(table, "order")
    assert table.column_names == list(ORDER.columns)


def test_order_same_offset_in_another_shard_stays(tmp_path: Path) -> None:
    table = ordered(tmp_path, [(0, 3), (1, 3), (2, 3)], [(1, 3)])
    assert table["shard"].to_pylist() == [0, 2]


def test_order_offsets_beyond_four_gigabytes_stay_apart(tmp_path: Path) -> None:
    far = (1 << 32) // 512
    table = ordered(tmp_path, [(0, 3), (0, 3 + far), (1, 3)], [(0, 3 + far)])
    assert list(zip(table["shard"].to_pylist(), table["offset"].to_pylist(), strict=True)) == [(0, 1536), (1, 1536)]


def test_order_row_groups_are_small_enough_to_read_a_few_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.pool.order._ROW_GROUP", 4)
    ordered(tmp_path, [(0, block) for block in range(10)], [])
    metadata = pq.ParquetFile(tmp_path / "out/order/part-00007.parquet").metadata
    assert [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)] == [4, 4, 2]
