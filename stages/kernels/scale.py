"""Scales on which scores of different batches can be compared.

A raw score is measured against the batch it was computed in, so that only its place within the batch is
comparable. Both scales depend on the multiset of scores in a batch alone, not on the order of the rows.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stages.kernels.radix import NUM_BINS, order_key

Scale = Literal["batch_rank", "batch_z", "weight", "raw"]
"""`batch_rank`: share of the batch that is worse; `batch_z`: standard deviations above the batch's mean;
`weight`: training weight times batch size (1 is the uniform share); `raw`: the score as recorded."""


def batch_scales(
    step: NDArray[np.integer], score: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rank and z-score of each score within its batch.

    rank = (r - 1/2) / B with r in 1..B the average rank among ties, higher is better; z = (m - mean) / std with the
    population's standard deviation, 0 in a batch whose scores are all equal.

    Args:
        step: [n] number of the batch; rows of a batch may lie anywhere.
        score: [n] finite scores.

    Returns:
        rank: [n] in (0, 1).
        z: [n].

    Raises:
        ValueError: a score is NaN or infinite.
    """
    if len(step) == 0:
        return np.empty(0, np.float32), np.empty(0, np.float32)
    if not np.isfinite(score).all():
        row = int(np.argmin(np.isfinite(score)))
        raise ValueError(f"score {score[row]} in row {row} (step {step[row]}) is not finite")
    order = _batch_order(step, score)
    steps, scores = step[order], score[order].astype(np.float64)
    starts = _starts(steps[1:] != steps[:-1])
    sizes = np.diff(starts, append=len(steps))
    tie_starts = _starts((steps[1:] != steps[:-1]) | (scores[1:] != scores[:-1]))
    tie_sizes = np.diff(tie_starts, append=len(steps))

    middle = np.repeat(tie_starts + (tie_sizes - 1) / 2, tie_sizes)  # average 0-based place among ties
    rank = (middle - np.repeat(starts, sizes) + 0.5) / np.repeat(sizes, sizes)
    mean = np.add.reduceat(scores, starts) / sizes
    centred = scores - np.repeat(mean, sizes)
    deviation = np.sqrt(np.add.reduceat(centred**2, starts) / sizes)
    constant = scores[starts] == scores[starts + sizes - 1]
    centred[np.repeat(constant, sizes)] = 0.0  # rounding of the mean must not become a z-score
    z = centred / np.repeat(np.where(constant | (deviation == 0), 1.0, deviation), sizes)
    return _back(rank, order), _back(z, order)


def _batch_order(step: NDArray[np.integer], score: NDArray[np.floating]) -> NDArray[np.int64]:
    """Rows by (step, score): one sort of a packed key where both fit into 64 bits. Rows that tie lie in any order."""
    first = int(step.min())
    if score.dtype != np.float32 or int(step.max()) - first >= 1 << 32:
        return np.lexsort((score, step))
    batch = (step.astype(np.int64) - first).astype(np.uint64)
    return np.argsort((batch << np.uint64(32)) | order_key(score))


def batch_sizes(step: NDArray[np.integer]) -> NDArray[np.uint32]:
    """Number of scored samples in the batch of each row."""
    if len(step) and int(step.max()) - int(step.min()) < len(step):
        batch = step.astype(np.int64) - int(step.min())
        return np.bincount(batch).astype(np.uint32)[batch]
    _, inverse, counts = np.unique(step, return_inverse=True, return_counts=True)
    sizes: NDArray[np.uint32] = counts.astype(np.uint32)[inverse]
    return sizes


def _starts(changed: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.flatnonzero(changed) + 1]).astype(np.int64)


def _back(values: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.float32]:
    result = np.empty(len(values), np.float32)
    result[order] = values
    return result


def unit_interval(
    values: NDArray[np.float32], scale: Scale, quantiles: "Quantiles | None" = None
) -> NDArray[np.float64]:
    """Scores of any scale mapped to [0, 1] without changing their order, so that selectors can be averaged.

    Ranks stay; z-scores go through the normal distribution; weights w, whose uniform share is 1, become w / (1 + w);
    raw scores become their place among all raw scores of the selector.

    Args:
        values: [n] on that scale.
        scale: of the values.
        quantiles: of the selector's values over the pool, for raw scores.
    """
    if scale == "batch_rank":
        return values.astype(np.float64)
    if scale == "batch_z":
        from scipy.special import ndtr  # slow to import, and configuration imports this module

        return np.asarray(ndtr(values.astype(np.float64)))
    if scale == "weight":
        return values.astype(np.float64) / (1 + values.astype(np.float64))
    assert quantiles is not None
    return quantiles.place(values)


@dataclass(frozen=True)
class Quantiles:
    """Distribution of values over the pool, from counts of the first 16 bits of their order keys.

    Counts of partitions add up. A bin spans values that differ by less than one part in 128; inside a bin values are
    placed by the other 16 bits.
    """

    counts: NDArray[np.int64]
    """[65536]."""

    @staticmethod
    def count(values: NDArray[np.float32]) -> NDArray[np.int64]:
        """Counts of a partition: [65536]."""
        return np.bincount(order_key(values) >> np.uint32(16), minlength=NUM_BINS)

    def place(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Share of the pool's values that lie below each value: [n] in (0, 1), not descending in the value."""
        key = order_key(values)
        bins = (key >> np.uint32(16)).astype(np.int64)
        below = np.cumsum(self.counts) - self.counts
        within = ((key & np.uint32(NUM_BINS - 1)) + 0.5) / NUM_BINS
        return (below[bins] + self.counts[bins] * within) / max(1, int(self.counts.sum()))
