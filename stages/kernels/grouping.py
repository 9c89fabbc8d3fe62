"""Consecutive items, as many to a group as fill it: the same groups for the same items, anywhere."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


_LEAST_BYTES = 16 << 20
_MOST_BYTES = 2 << 30
_MANY = 16
_MOST = 512
_MOST_OF_MANY = 8 << 30
"""In pools of many terabytes: about four minutes of reading and decoding."""


def shard_group_bytes(bytes_before: int) -> int:
    """Bytes of consecutive shards that one task reads, behind so many: more where a pool proves to be large.

    What comes behind does not count, so that a pool that grows at its end keeps its groups but for the last one.
    """
    return max(min(bytes_before // _MANY, _MOST_BYTES), _LEAST_BYTES, min(bytes_before // _MOST, _MOST_OF_MANY))


def planned_shard_groups(total_bytes: int, num_shards: int) -> int:
    """Groups of shards that such a pool will have, nearly."""
    shard_bytes = max(1, total_bytes // max(1, num_shards))
    groups, before = 0, 0
    while before < total_bytes:
        before += -(-shard_group_bytes(before) // shard_bytes) * shard_bytes  # none is cut
        groups += 1
    return max(1, groups)


def consecutive_groups(
    items: Iterable[Item], weigh: Callable[[Item], int], target: Callable[[int], int]
) -> list[tuple[Item, ...]]:
    """Groups that weigh at least their target each, but for the last one; none is cut, an item beyond it is alone.

    Items that are appended change the last group alone, and add others behind it.

    Args:
        items: in their order.
        weigh: weight of an item, not negative.
        target: weight at which a group is full, from the weight of all items before it.
    """
    groups: list[list[Item]] = []
    before = full = 0
    for item in items:
        if before >= full:
            groups.append([])
            full = before + max(1, target(before))
        groups[-1].append(item)
        before += weigh(item)
    return [tuple(group) for group in groups]
