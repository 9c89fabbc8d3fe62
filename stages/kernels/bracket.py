"""The k-th row in one pass: a sample brackets its value, rows above the bracket are counted, those inside collected.

The sample decides how many rows are collected, never which row is found: where the k-th one lies outside the bracket,
or too many lie inside, `settle` says so, and radix selection (`radix.Search`) finds it in a few more passes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.kernels.radix import Column, Cut, Keys, ascending, order_key

SAMPLE_ROWS = 1 << 18
MAX_INSIDE = 1 << 23
"""Rows (of 12 bytes) that all brackets of a pass may bring together."""
_DEVIATIONS = 6.0


@dataclass(frozen=True)
class Bracket:
    """Values between which the k-th one should lie, both inclusive."""

    low: float
    high: float


EVERYTHING = Bracket(-math.inf, math.inf)


@dataclass(frozen=True)
class Inside:
    """What a partition says of its rows."""

    num_rows: int
    num_above: int
    keys: Keys | None
    """Value and position of the rows inside the bracket, the preferred ones larger; None if there are too many."""


def expected_inside(num_rows: int, share: float, num_sampled: int) -> int:
    """Rows that the bracket of a sample of this size will hold, about."""
    share = min(max(share, 0.0), 1.0)
    return math.ceil(2 * _DEVIATIONS * num_rows * math.sqrt(share * (1 - share) / max(1, num_sampled)))


def bracket_of(sample: NDArray[np.float32], share: float) -> Bracket:
    """Where the last of the best `share` of all rows lies, from a sample of them.

    Args:
        sample: [s] values, not empty.
        share: of the rows, 1 or more for all of them.
    """
    size = len(sample)
    rank = min(max(share, 0.0), 1.0) * size
    wide = _DEVIATIONS * math.sqrt(rank * (size - rank) / size) + 1
    first, last = math.floor(rank - wide), math.ceil(rank + wide)  # places from the best on
    inner = [size - 1 - place for place in (first, last) if 0 <= place < size]
    ordered = np.partition(sample, inner) if inner else sample
    low = float(ordered[size - 1 - last]) if last < size else -math.inf
    high = float(ordered[size - 1 - first]) if first >= 0 else math.inf
    return Bracket(low, high)


def inside(values: NDArray[np.float32], position: NDArray[np.uint64], bracket: Bracket, most: int) -> Inside:
    """Count and collect a partition's rows.

    Args:
        values: [n] finite.
        position: [n] of each row among all rows: of equal values the smaller one is preferred.
        bracket: of the k-th value.
        most: rows to collect at most.
    """
    low, high = np.float32(bracket.low), np.float32(bracket.high)
    num_above = int(np.count_nonzero(values > high))
    rows = np.flatnonzero((values >= low) & (values <= high))
    keys = Keys((order_key(values[rows]), ascending(position[rows]))) if len(rows) <= most else None
    return Inside(len(values), num_above, keys)


def settle(parts: Sequence[Inside], k: int) -> Cut | None:
    """The cut at the k-th of all partitions' rows, or the last one; None if the bracket missed it."""
    k = min(k, sum(part.num_rows for part in parts))
    if k <= 0:
        return Cut(None)
    left = k - sum(part.num_above for part in parts)
    found = [part.keys for part in parts if part.keys is not None]
    if len(found) < len(parts) or not 0 < left <= sum(map(len, found)):
        return None
    values, positions = (np.concatenate([keys.columns[place] for keys in found]) for place in (0, 1))
    value = _largest(values, left)
    tied = positions[values == value]
    return Cut((int(value), int(_largest(tied, left - int(np.count_nonzero(values > value))))))


def _largest(column: Column, k: int) -> np.unsignedinteger:
    """The k-th largest, from 1 on."""
    place = len(column) - k
    largest: np.unsignedinteger = np.partition(column, place)[place]
    return largest
