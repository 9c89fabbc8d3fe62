"""Exact top-k by radix selection: no sort, O(bins) memory where the results meet.

A row is ranked by several columns of unsigned integers, the first one deciding, ties going to the next; the larger
is preferred. Columns are read as digits of 16 bits from the most significant on. `histogram` counts the next digit
of the rows that share a known prefix; histograms of partitions add up; `Search` descends into the bin in which the
k-th row lies, until few enough candidates are left to be collected. What comes out is a `Cut`, a key between the
k-th row and the next: comparing with it says for each row, wherever it lies, whether it is among the k.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 1 << 16
MAX_COLLECTED = 1 << 16
"""Candidates that are collected rather than counted again."""

Column = NDArray[np.uint32] | NDArray[np.uint64]

_SIGNED_BITS: dict[str, tuple[type[np.unsignedinteger], type[np.signedinteger], int]] = {
    "float32": (np.uint32, np.int32, 32),
    "float64": (np.uint64, np.int64, 64),
}


def order_key(values: NDArray[np.generic]) -> Column:
    """Unsigned integers that order as the values do; -0 equals +0.

    Args:
        values: [n] float32 (32-bit keys), float64, integers or booleans (64-bit keys).

    Raises:
        ValueError: a value is NaN, which has no place in an order.
        TypeError: values of another type.
    """
    kind = values.dtype.name
    if kind in _SIGNED_BITS:
        return _float_key(values)
    if values.dtype.kind in "ub":
        return values.astype(np.uint64)
    if values.dtype.kind == "i":
        return values.astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63)
    raise TypeError(f"values of type {values.dtype} cannot be ranked")


def _float_key(values: NDArray[np.generic]) -> Column:
    num_nan = int(np.count_nonzero(np.isnan(values)))
    if num_nan:
        raise ValueError(f"{num_nan} of {len(values)} values are NaN and cannot be ranked")
    unsigned, signed, bits = _SIGNED_BITS[values.dtype.name]
    raw = np.add(values, 0, dtype=values.dtype).view(unsigned)  # -0 + 0 is +0; nothing else changes
    key: Column = (raw.view(signed) >> (bits - 1)).view(unsigned)  # all ones where the sign bit is set
    key |= unsigned(1 << (bits - 1))
    key ^= raw
    return key


def float_of_key(key: int) -> float:
    """The float32 value whose `order_key` this is."""
    raw = key ^ (1 << 31) if key >> 31 else key ^ 0xFFFFFFFF
    return float(np.asarray([raw], np.uint32).view(np.float32)[0])


def ascending(column: Column) -> Column:
    """The column with its order reversed: for "smallest first", and for uids as the last resort."""
    return ~column


@dataclass(frozen=True)
class Keys:
    """Ranking columns of n rows, the deciding one first."""

    columns: tuple[Column, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits of each column, 32 or 64."""
        return tuple(column.dtype.itemsize * 8 for column in self.columns)

    def __len__(self) -> int:
        return len(self.columns[0])

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "Keys":
        """Some of the rows."""
        return Keys(tuple(column[rows] for column in self.columns))


@dataclass(frozen=True)
class Cut:
    """A key that every kept row reaches and no other; `None` keeps nothing."""

    threshold: tuple[int, ...] | None

    def keeps(self, keys: Keys) -> NDArray[np.bool_]:
        """Which rows rank at or above the threshold."""
        if self.threshold is None:
            return np.zeros(len(keys), bool)
        first, bound = keys.columns[0], keys.columns[0].dtype.type(self.threshold[0])
        kept = first > bound
        tied = np.flatnonzero(first == bound)
        if len(self.threshold) > 1:  # mostly few rows, and only of them further columns are looked at
            tied = tied[Cut(self.threshold[1:]).keeps(Keys(keys.columns[1:]).take(tied))]
        kept[tied] = True
        return kept


def top_count(fraction: float, n: int) -> int:
    """Rows to keep, floor(fraction * n), in decimal arithmetic: 0.29 of 100 is 29, as written."""
    return int((Decimal(str(fraction)) * n).to_integral_value(rounding=ROUND_FLOOR))


@dataclass(frozen=True)
class Request:
    """What a partition is asked: count the next digit below a prefix, or hand over the candidates."""

    prefix: tuple[int, ...]
    """Digits of 16 bits that a candidate's key begins with."""
    collect: bool = False


@dataclass(frozen=True)
class Histogram:
    """Counts of a digit. Empty bins, which are nearly all, are left out, so that many of these meet on the driver."""

    bins: NDArray[np.uint16]
    """[m] ascending."""
    counts: NDArray[np.int64]
    """[m] rows, each above 0."""

    @classmethod
    def of(cls, counts: NDArray[np.int64]) -> "Histogram":
        """From the counts of all bins: [65536]."""
        bins = np.flatnonzero(counts)
        return cls(bins.astype(np.uint16), counts[bins])

    def dense(self) -> NDArray[np.int64]:
        """Counts of all bins: [65536]."""
        counts = np.zeros(NUM_BINS, np.int64)
        counts[self.bins] = self.counts
        return counts

    def __add__(self, other: "Histogram") -> "Histogram":
        counts = self.dense()
        counts[other.bins] += other.counts
        return Histogram.of(counts)


NO_ROWS = Histogram(np.empty(0, np.uint16), np.empty(0, np.int64))


def histogram(keys: Keys, request: Request) -> Histogram:
    """Counts of the digit behind the prefix, over the rows that have the prefix."""
    digit = _digit(keys, len(request.prefix))
    if request.prefix:
        digit = digit[_has_prefix(keys, request.prefix)]
    return Histogram.of(np.bincount(digit, minlength=NUM_BINS))


def candidates(keys: Keys, request: Request) -> Keys:
    """The rows that have the prefix."""
    return keys.take(_has_prefix(keys, request.prefix))


def _digit(keys: Keys, index: int) -> NDArray[np.int64]:
    for column in keys.columns:
        digits = column.dtype.itemsize // 2
        if index < digits:
            shift = column.dtype.type(16 * (digits - 1 - index))
            return ((column >> shift) & column.dtype.type(NUM_BINS - 1)).astype(np.int64)
        index -= digits
    raise AssertionError("no digit behind the last column")


def _has_prefix(keys: Keys, prefix: tuple[int, ...]) -> NDArray[np.bool_]:
    rows = np.ones(len(keys), bool)
    for index, digit in enumerate(prefix):
        rows &= _digit(keys, index) == digit
    return rows


@dataclass
class Search:
    """The state of one selection on the driver: ask `request()` of all partitions, `feed` the sum, until `cut`."""

    widths: tuple[int, ...]
    """Bits of the key columns."""
    k: int | None = None
    """Rows to keep; set it before the second request at the latest (the first answer tells n)."""
    cut: Cut | None = None
    _prefix: list[int] = field(default_factory=list)
    _left: int = 0
    """Rows to keep among the candidates."""
    _collecting: bool = False

    def request(self) -> Request:
        """What the partitions are to be asked next."""
        assert self.cut is None, "the search is over"
        return Request(tuple(self._prefix), self._collecting)

    def feed(self, summed: Histogram) -> None:
        """Take the partitions' summed histograms."""
        assert self.k is not None, "k must be known"
        counts = summed.dense()
        if not self._prefix:
            self._left = min(self.k, int(counts.sum()))
        if self._left <= 0:
            self.cut = Cut(None)
            return
        from_above = np.cumsum(counts[::-1])[::-1]  # rows in this bin or a higher one
        digit = int(np.flatnonzero(from_above >= self._left)[-1])
        self._left -= int(from_above[digit] - counts[digit])
        self._prefix.append(digit)
        if self._left == counts[digit] or len(self._prefix) == sum(self.widths) // 16:
            self.cut = Cut(self._threshold())
        else:
            self._collecting = bool(counts[digit] <= MAX_COLLECTED)

    def collect(self, found: Sequence[Keys]) -> None:
        """Take all candidates and end the search."""
        columns = [np.concatenate(parts) for parts in zip(*(keys.columns for keys in found), strict=True)]
        order = np.lexsort(columns[::-1])
        last = order[len(order) - self._left]
        self.cut = Cut(tuple(int(column[last]) for column in columns))

    def _threshold(self) -> tuple[int, ...]:
        digits = [*self._prefix, *[0] * (sum(self.widths) // 16 - len(self._prefix))]
        bounds = []
        for width in self.widths:
            bound = 0
            for _ in range(width // 16):
                bound = bound << 16 | digits.pop(0)
            bounds.append(bound)
        return tuple(bounds)


def select(partitions: Sequence[Keys], k: int) -> Cut:
    """The cut that keeps exactly k rows of all partitions (all of them if there are fewer).

    Rows whose keys are equal in every column are kept or dropped together, so the last column should be unique.
    """
    search = Search(partitions[0].widths, k)
    while search.cut is None:
        request = search.request()
        if request.collect:
            search.collect([candidates(keys, request) for keys in partitions])
        else:
            search.feed(sum((histogram(keys, request) for keys in partitions), NO_ROWS))
    return search.cut
