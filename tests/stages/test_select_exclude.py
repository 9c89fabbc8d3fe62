import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.kernels.uid import to_hex, to_records
from stages.select_exclude import read_excluded
from tests.stages.uid_tables import random_uids


def test_read_excluded_joins_files_of_all_kinds_without_repeats(tmp_path):
    hi, lo = random_uids(50)
    uids = to_hex(hi, lo)
    np.save(tmp_path / "a.npy", to_records(hi, lo)[10:30][::-1])
    pq.write_table(pa.table({"uid": uids.slice(0, 15)}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"uid_hi": hi[28:40], "uid_lo": lo[28:40]}), tmp_path / "c.parquet")
    (tmp_path / "d.txt").write_text("\n\n".join(uids.slice(38, 5).to_pylist()).upper() + "\r\n")
    found = read_excluded(Storage(), [str(tmp_path / name) for name in ("a.npy", "b.parquet", "c.parquet", "d.txt")])
    assert np.array_equal(found.hi, hi[:43])
    assert np.array_equal(found.lo, lo[:43])


def test_read_excluded_nothing_is_the_empty_set():
    assert len(read_excluded(Storage(), [])) == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ids.csv", b"1,2", "kind"),
        ("ids.txt", b"0123\nxyz\n", "ids.txt, line 2"),
        ("ids.npy", b"nothing of the sort", "not a subset file"),
    ],
)
def test_read_excluded_refuses_what_is_no_list_of_uids(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_excluded(Storage(), [str(tmp_path / name)])


def test_read_excluded_refuses_a_table_without_uids(tmp_path):
    pq.write_table(pa.table({"key": ["1"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"no uids[\s\S]*found: key"):
        read_excluded(Storage(), [str(tmp_path / "x.parquet")])


@pytest.mark.parametrize(
    ("columns", "where"),
    [
        ({"uid": [12, 34]}, "column uid"),
        ({"uid": [b"12", b"34"]}, "column uid"),
        ({"uid_hi": [1, 2], "uid_lo": [1, 2]}, "column uid_hi"),
        ({"uid_hi": pa.array([1, 2], pa.uint64()), "uid_lo": pa.array([1, None], pa.uint64())}, "column uid_lo, row 1"),
    ],
)
def test_read_excluded_refuses_columns_that_would_name_other_samples(tmp_path, columns, where):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(UserError) as raised:
        read_excluded(Storage(), [str(tmp_path / "x.parquet")])
    assert f"x.parquet, {where}" in str(raised.value)


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-9], lambda data: data[:4] + bytes(60) + data[64:]]
)
def test_read_excluded_damaged_table_is_refused_by_name(tmp_path, damage):
    pq.write_table(pa.table({"uid": ["12", "34"]}), tmp_path / "x.parquet")
    (tmp_path / "x.parquet").write_bytes(damage((tmp_path / "x.parquet").read_bytes()))
    with pytest.raises(UserError, match=r"cannot be read[\s\S]*x\.parquet"):
        read_excluded(Storage(), [str(tmp_path / "x.parquet")])


def test_read_excluded_text_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfAB\r\n\r\n 7 \r\n")
    assert read_excluded(Storage(), [str(tmp_path / "x.txt")]).lo.tolist() == [7, 0xAB]
