import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.kernels.buckets import TARGET_ROWS, bucket_groups, bucket_path, check_same_cut, planned_buckets


@given(st.integers(0, 10).map(lambda bits: 1 << bits), st.integers(1, 2000))
def test_bucket_groups_hold_every_bucket_once_and_evenly(num_buckets, num_groups):
    groups = bucket_groups(num_buckets, num_groups)
    assert [bucket for group in groups for bucket in group] == list(range(num_buckets))
    assert len(groups) == min(num_buckets, num_groups)
    assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_bucket_path_is_the_contracts():
    assert bucket_path(7) == "bucket-00007.parquet"
    assert bucket_path(12345, "index") == "index/bucket-12345.parquet"


@given(st.integers(0, 10**11))
def test_planned_buckets_are_a_power_of_two_that_bounds_their_rows(rows):
    buckets = planned_buckets(rows)
    assert buckets & (buckets - 1) == 0
    assert rows / buckets <= TARGET_ROWS
    assert buckets == 1 or rows / buckets > TARGET_ROWS / 2 - 1


def test_check_same_cut_names_the_odd_table():
    check_same_cut(3, [("mimic", 3)])
    with pytest.raises(ValueError, match=r"loss \(2 bits\)"):
        check_same_cut(3, [("mimic", 3), ("loss", 2)])
