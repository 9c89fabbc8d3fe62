"""Exact area under the ROC curve, ties counted half, in memory that does not grow with the pool.

The area is the probability that a sample of the positive class has the higher score than one of the negative class:
U / (P N), U = number of (positive, negative) pairs in the right order + half of the tied ones. Pairs whose scores lie
in different coarse bins follow from the bins' counts; the others are counted range by range of bins, each range small
enough to be held. All counts are integers, so that the result depends on no partitioning.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import Engine
from stages.kernels.radix import order_key
from stages.report.bins import BinCounts
from stages.report.view import MISMATCHED, NUM_LABELS, OTHER, Pool

MAX_ROWS = 1 << 22
"""Rows of a range, unless a single bin has more (its distinct values are at most 65,536)."""
_SAFE_TOTAL = 1 << 31
"""Below it products of counts fit in 64 bits; above it Python's own integers count."""


class Range(NamedTuple):
    """Coarse bins of one source whose inner order is to be counted."""

    source: str
    first: int
    last: int
    rows: int


def exact_aucs(engine: Engine, pool: Pool, means: Mapping[str, BinCounts]) -> dict[str, float | None]:
    """By source: how well its mean score tells other samples (positive) from mismatched ones (negative).

    Trusted samples and those without a score are left out; None where a class is empty.
    """
    labelled = {name: _by_label(bins) for name, bins in means.items()}
    ranges = [part for name, bins in means.items() for part in ranges_of(name, bins.bins, labelled[name])]
    inner = engine.map(
        partial(_count_range, pool), ranges, name="report: baselines", unit="rows", weigh=lambda part: part.rows
    )
    aucs: dict[str, float | None] = {}
    for name, counts in labelled.items():
        negatives, positives = (int(total) for total in counts.sum(axis=0))
        as_ties = sum(n * p for n, p in counts.tolist())  # what pairs inside one bin have added so far
        inside = sum(wins for part, wins in zip(ranges, inner, strict=True) if part.source == name)
        doubled = doubled_wins(counts) - as_ties + inside
        aucs[name] = doubled / (2 * positives * negatives) if positives and negatives else None
    return aucs


def ranges_of(name: str, bins: NDArray[np.int64], counts: NDArray[np.int64], max_rows: int = MAX_ROWS) -> list[Range]:
    """Consecutive bins that hold both classes, joined while they have at most `max_rows` rows."""
    ranges: list[Range] = []
    mixed = _mixed(counts)
    for number, rows in zip(bins[mixed].tolist(), counts[mixed].sum(axis=1).tolist(), strict=True):
        if ranges and ranges[-1].rows + rows <= max_rows:
            ranges[-1] = ranges[-1]._replace(last=number, rows=ranges[-1].rows + rows)
        else:
            ranges.append(Range(name, number, number, rows))
    return ranges


def doubled_wins(counts: NDArray[np.int64]) -> int:
    """2 U from counts by value.

    Args:
        counts: [u, 2] negatives and positives, by ascending value.
    """
    negatives, positives = counts[:, 0], counts[:, 1]
    above = positives.sum() - np.cumsum(positives)
    if counts.sum() < _SAFE_TOTAL:
        return int(np.dot(negatives, 2 * above + positives))
    return sum(n * (2 * a + p) for n, a, p in zip(negatives.tolist(), above.tolist(), positives.tolist(), strict=True))


def _by_label(bins: BinCounts) -> NDArray[np.int64]:
    """[u, 2] mismatched and others, kept or not."""
    by_fate = bins.counts.reshape(len(bins.bins), 2, NUM_LABELS).sum(axis=1)
    counts: NDArray[np.int64] = by_fate[:, [MISMATCHED, OTHER]]
    return counts


def _mixed(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    return (counts[:, 0] > 0) & (counts[:, 1] > 0)


def _count_range(pool: Pool, part: Range) -> int:
    """2 U of the pairs that lie in the same bin, for the bins of a range."""
    keys = np.empty(0, np.int64)
    counts = np.empty((0, 2), np.int64)
    for buckets in pool.groups:
        found_keys, found_labels = _keys_of(pool, part, buckets)
        found = np.stack([found_labels == MISMATCHED, found_labels == OTHER], axis=1).astype(np.int64)
        keys, row = np.unique(np.concatenate([keys, found_keys]), return_inverse=True)
        merged = np.zeros((len(keys), 2), np.int64)
        np.add.at(merged, row, np.concatenate([counts, found]))
        counts = merged
    starts = np.flatnonzero(np.diff(keys >> 16, prepend=-1))
    return sum(doubled_wins(one) for one in np.split(counts, starts[1:]))


def _keys_of(pool: Pool, part: Range, buckets: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    keys, labels = [], []
    for view in pool.views(buckets):
        source = next(source for source in pool.sources if source.name == part.source)
        hi, lo, means = source.means(view.bucket)
        row = view.rows_of(hi, lo)
        label = np.where(row >= 0, view.label[row], 0)
        key = order_key(means).astype(np.int64)
        chosen = (label > 0) & (key >> 16 >= part.first) & (key >> 16 <= part.last)
        keys.append(key[chosen])
        labels.append(label[chosen])
    return np.concatenate(keys), np.concatenate(labels)
