from hypothesis import given
from hypothesis import strategies as st

from stages.kernels.grouping import consecutive_groups


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 100))
def test_groups_hold_each_item_once_in_order_and_are_full_but_for_the_last(weights, target):
    items = list(enumerate(weights))
    groups = consecutive_groups(items, lambda item: item[1], target)
    assert [item for group in groups for item in group] == items
    assert all(sum(weight for _, weight in group) >= target for group in groups[:-1])
    assert all(sum(weight for _, weight in group[:-1]) < target for group in groups), "no item too many"


def test_heavy_item_is_alone_and_nothing_is_no_group():
    assert consecutive_groups("aXb", {"a": 1, "X": 9, "b": 1}.__getitem__, 1) == [("a",), ("X",), ("b",)]
    assert consecutive_groups([], len, 5) == []
