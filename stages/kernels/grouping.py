"""Consecutive items, as many to a group as fill it: the same groups for the same items, anywhere."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def consecutive_groups(items: Iterable[Item], weigh: Callable[[Item], int], target: int) -> list[tuple[Item, ...]]:
    """Groups that weigh at least `target` each, but for the last one; none is cut, an item beyond `target` is alone.

    Args:
        items: in their order.
        weigh: weight of an item, not negative.
        target: weight at which a group is full.
    """
    groups: list[list[Item]] = []
    filled = target
    for item in items:
        if filled >= target:
            groups.append([])
            filled = 0
        groups[-1].append(item)
        filled += weigh(item)
    return [tuple(group) for group in groups]
