"""Counts over the 65,536 coarse bins of all float32 values: mergeable, and no range has to be known beforehand."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.kernels.radix import float_of_key, order_key


@dataclass(frozen=True)
class BinCounts:
    """How many values of each category lie in each bin that is not empty.

    A bin holds the values whose order-preserving 32-bit keys share their upper 16 bits, so that its width is at most
    1/128 of its magnitude.
    """

    bins: NDArray[np.int64]
    """[u] ascending."""
    counts: NDArray[np.int64]
    """[u, c] by category."""

    @classmethod
    def of(cls, values: NDArray[np.float32], category: NDArray[np.integer], num_categories: int) -> "BinCounts":
        """Count finite values.

        Args:
            values: [n] without NaN.
            category: [n] in [0, num_categories).
            num_categories: c.
        """
        bins = (order_key(values) >> np.uint32(16)).astype(np.int64)
        cells, counts = np.unique(bins * num_categories + category, return_counts=True)
        present, row = np.unique(cells // num_categories, return_inverse=True)
        table = np.zeros((len(present), num_categories), np.int64)
        table[row, cells % num_categories] = counts
        return cls(present, table)

    def __add__(self, other: "BinCounts") -> "BinCounts":
        present, row = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        table = np.zeros((len(present), self.counts.shape[1]), np.int64)
        np.add.at(table, row, np.concatenate([self.counts, other.counts]))
        return BinCounts(present, table)

    @property
    def total(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    def quantile_edges(self, low: float, high: float) -> tuple[float, float]:
        """Lower edge of the bin that holds the `low` quantile, upper edge of the one that holds the `high` one."""
        reached = np.cumsum(self.counts.sum(axis=1))
        first = int(np.searchsorted(reached, low * self.total, "right"))
        last = int(np.searchsorted(reached, high * self.total, "left"))
        end = len(self.bins) - 1
        lower = int(self.bins[min(first, end)]) << 16
        upper = (int(self.bins[min(last, end)]) << 16) | 0xFFFF
        return float_of_key(lower), float_of_key(upper)

    def percentile(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Share of all values below each one, half of its own bin counted: [n] in (0, 1)."""
        sizes = self.counts.sum(axis=1)
        below = np.cumsum(sizes) - sizes
        bins = (order_key(values) >> np.uint32(16)).astype(np.int64)
        row = np.minimum(np.searchsorted(self.bins, bins), len(self.bins) - 1)
        share: NDArray[np.float64] = (below[row] + sizes[row] / 2) / self.total
        return share

    def by_share(self, parts: int) -> NDArray[np.float64]:
        """Counts by category in `parts` slices of equal total, from the lowest values up: [parts, c].

        A bin that lies across a border is divided in proportion.
        """
        reached = np.concatenate([[0], np.cumsum(self.counts.sum(axis=1))])
        borders = np.linspace(0, self.total, parts + 1)
        cumulative = np.vstack([np.zeros(self.counts.shape[1]), np.cumsum(self.counts, axis=0)])
        columns = [np.interp(borders, reached, cumulative[:, c]) for c in range(self.counts.shape[1])]
        return np.diff(np.stack(columns, axis=1), axis=0)
