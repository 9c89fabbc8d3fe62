from hypothesis import given
from hypothesis import strategies as st

from stages.kernels.grouping import consecutive_groups, planned_shard_groups, shard_group_bytes


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 100))
def test_groups_hold_each_item_once_in_order_and_are_full_but_for_the_last(weights, target):
    items = list(enumerate(weights))
    groups = consecutive_groups(items, lambda item: item[1], lambda _: target)
    assert [item for group in groups for item in group] == items
    assert all(sum(weight for _, weight in group) >= target for group in groups[:-1])
    assert all(sum(weight for _, weight in group[:-1]) < target for group in groups), "no item too many"


def test_heavy_item_is_alone_and_nothing_is_no_group():
    assert consecutive_groups("aXb", {"a": 1, "X": 9, "b": 1}.__getitem__, lambda _: 1) == [("a",), ("X",), ("b",)]
    assert consecutive_groups([], len, lambda _: 5) == []


@given(st.lists(st.integers(0, 8 << 30), max_size=60), st.lists(st.integers(0, 8 << 30), max_size=60))
def test_items_that_are_appended_leave_all_groups_but_the_last_as_they_were(weights, more):
    """Of shards too, whose groups grow with what lies before them."""
    before = consecutive_groups(enumerate(weights), lambda item: item[1], shard_group_bytes)
    after = consecutive_groups(enumerate(weights + more), lambda item: item[1], shard_group_bytes)
    assert after[: max(0, len(before) - 1)] == before[:-1]
    if before:
        assert after[len(before) - 1][: len(before[-1])] == before[-1]


@given(st.integers(0, 1 << 50))
def test_shard_groups_grow_with_the_pool_within_their_bounds(before):
    assert 16 << 20 <= shard_group_bytes(before) <= 8 << 30
    assert shard_group_bytes(before) <= shard_group_bytes(before + 12345)


def test_shards_of_small_and_large_pools_make_many_groups_and_not_too_many():
    assert planned_shard_groups(1 << 30, 100) >= 32, "work for many tasks"
    assert planned_shard_groups(4 << 40, 10_000) <= 2048, "not merged up to several terabytes"
    assert planned_shard_groups(0, 0) == 1
