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
"""Rows (of 12 bytes and more) that all brackets of a pass may bring together."""
_DEVIATIONS = 6.0


@dataclass(frozen=True)
class Bracket:
    """Values between which the k-th one should lie, both inclusive; infinite where the bracket is open."""

    low: float
    """Or an integer, exact, where ranking keys are bracketed."""
    high: float

    def holds(self, column: Column) -> NDArray[np.bool_]:
        """Which of these ranking columns' values lie inside: [n]."""
        held = np.ones(len(column), np.bool_)
        if not math.isinf(self.low):
            held &= column >= column.dtype.type(self.low)
        if not math.isinf(self.high):
            held &= column <= column.dtype.type(self.high)
        return held


EVERYTHING = Bracket(-math.inf, math.inf)


@dataclass(frozen=True)
class Inside:
    """What a partition says of its rows."""

    num_rows: int
    num_above: int
    keys: Keys | None
    """Of the rows inside the bracket, the preferred ones larger; None if there are too many."""


def expected_inside(num_rows: int, share: float, num_sampled: int) -> int:
    """Rows that the bracket of a sample of this size will hold, about."""
    share = min(max(share, 0.0), 1.0)
    return math.ceil(2 * _DEVIATIONS * num_rows * math.sqrt(share * (1 - share) / max(1, num_sampled)))


def bracket_of(sample: NDArray[np.float32] | Column, share: float) -> Bracket:
    """Where the last of the best `share` of all rows lies, from a sample of them.

    Args:
        sample: [s] values or ranking keys, the better the larger; not empty.
        share: of the rows, 1 or more for all of them.
    """
    size = len(sample)
    rank = min(max(share, 0.0), 1.0) * size
    wide = _DEVIATIONS * math.sqrt(rank * (size - rank) / size) + 1
    first, last = math.floor(rank - wide), math.ceil(rank + wide)  # places from the best on
    inner = [size - 1 - place for place in (first, last) if 0 <= place < size]
    ordered = np.partition(sample, inner) if inner else sample
    low = ordered[size - 1 - last].item() if last < size else -math.inf
    high = ordered[size - 1 - first].item() if first >= 0 else math.inf
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


def inside_keys(keys: Keys, bracket: Bracket, most: int) -> Inside:
    """Count and collect a partition's rows by their ranking keys, whatever is ranked.

    Args:
        keys: of n rows; the last column parts all ties.
        bracket: of the k-th row's first column.
        most: rows to collect at most.
    """
    first = keys.columns[0]
    num_above = 0 if math.isinf(bracket.high) else int(np.count_nonzero(first > first.dtype.type(bracket.high)))
    rows = np.flatnonzero(bracket.holds(first))
    return Inside(len(keys), num_above, keys.take(rows) if len(rows) <= most else None)


def settle(parts: Sequence[Inside], k: int) -> Cut | None:
    """The cut at the k-th of all partitions' rows, or the last one; None if the bracket missed it."""
    k = min(k, sum(part.num_rows for part in parts))
    if k <= 0:
        return Cut(None)
    left = k - sum(part.num_above for part in parts)
    found = [part.keys for part in parts if part.keys is not None]
    if len(found) < len(parts) or not 0 < left <= sum(map(len, found)):
        return None
    columns = [np.concatenate(parts) for parts in zip(*(keys.columns for keys in found), strict=True)]
    threshold = []
    while columns:
        first, *others = columns
        bound = _largest(first, left)
        threshold.append(int(bound))
        left -= int(np.count_nonzero(first > bound))
        columns = [column[first == bound] for column in others]
    return Cut(tuple(threshold))


def _largest(column: Column, k: int) -> np.unsignedinteger:
    """The k-th largest, from 1 on."""
    place = len(column) - k
    largest: np.unsignedinteger = np.partition(column, place)[place]
    return largest
