"""Consecutive items, as many to a group as fill it: the same groups for the same items, anywhere."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


_LEAST_BYTES = 16 << 20
_MOST_BYTES = 2 << 30
_MANY = 64
_MOST = 2048
_MOST_OF_MANY = 8 << 30
"""In pools of many terabytes: about four minutes of reading and decoding."""


def shard_group_bytes(total_bytes: int) -> int:
    """Bytes of consecutive shards that one task reads, in a pool of so many."""
    return max(min(total_bytes // _MANY, _MOST_BYTES), _LEAST_BYTES, min(total_bytes // _MOST, _MOST_OF_MANY))


def planned_shard_groups(total_bytes: int, num_shards: int) -> int:
    """Groups of shards that such a pool will have, nearly."""
    in_a_group = -(-shard_group_bytes(total_bytes) * num_shards // max(1, total_bytes))  # none is cut
    return max(1, -(-num_shards // max(1, in_a_group)))


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
