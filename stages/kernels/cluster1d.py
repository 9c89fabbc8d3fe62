"""Two clusters on a line, fitted on an integer histogram: the same split for any partitioning of the values.

Values fall into 65,536 bins of equal width between the smallest and the largest of them. Minima, maxima and counts
of partitions combine exactly; the fit sees the counts alone. Positions are in bins: bin i holds what lies in
[i, i + 1), its centre is i + 1/2.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 1 << 16
MAX_EM_STEPS = 500
EM_TOLERANCE = 1e-4  # bins; far below what moves a cut to another bin edge


@dataclass(frozen=True)
class Bins:
    """65,536 bins of equal width over [low, high]."""

    low: float
    high: float

    def index(self, values: NDArray[np.floating]) -> NDArray[np.int64]:
        """Bin of each value: [n], in [0, 65536)."""
        if self.high <= self.low:
            return np.zeros(len(values), np.int64)
        place = (values.astype(np.float64) - self.low) / (self.high - self.low)
        return np.clip((place * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)

    def count(self, values: NDArray[np.floating]) -> NDArray[np.int64]:
        """Values in each bin: [65536]; counts of partitions add up."""
        return np.bincount(self.index(values), minlength=NUM_BINS)

    def edge(self, bin_: int) -> float:
        """The value at which a bin begins."""
        return self.low + (self.high - self.low) * bin_ / NUM_BINS


class Split(NamedTuple):
    """Where two clusters part, and what they look like (positions in bins)."""

    cut: int
    """First bin of the upper cluster."""
    means: tuple[float, float]
    deviations: tuple[float, float]
    share: float
    """Weight of the upper cluster."""


def two_means(counts: NDArray[np.int64]) -> Split | None:
    """The split into two clusters with the least sum of squared distances, by trying every one.

    The cut is the midpoint between the means, at the nearest bin edge.

    Args:
        counts: [65536].

    Returns:
        None if all values lie in one bin.
    """
    bins = np.flatnonzero(counts)
    if len(bins) < 2:
        return None
    weight, centre = counts[bins].astype(np.float64), bins.astype(np.float64) + 0.5
    below, mass = np.cumsum(weight)[:-1], np.cumsum(weight * centre)[:-1]
    above = weight.sum() - below
    lower, upper = mass / below, ((weight * centre).sum() - mass) / above
    between = below * above * (upper - lower) ** 2  # the rest of the total variance lies within the clusters
    best = int(np.argmax(between))
    means = float(lower[best]), float(upper[best])
    deviations = (
        _deviation(weight[: best + 1], centre[: best + 1], means[0]),
        _deviation(weight[best + 1 :], centre[best + 1 :], means[1]),
    )
    return Split(round(sum(means) / 2), means, deviations, float(above[best] / weight.sum()))


def gaussian_mixture(counts: NDArray[np.int64]) -> Split | None:
    """Two Gaussians by expectation maximisation from the 2-means split; the cut is where their densities cross.

    A deviation does not fall below that of one bin, 1/sqrt(12).

    Args:
        counts: [65536].

    Returns:
        None if all values lie in one bin, or if the weighted densities do not cross between the means.
    """
    start = two_means(counts)
    if start is None:
        return None
    bins = np.flatnonzero(counts)
    weight, centre = counts[bins].astype(np.float64), bins + 0.5
    total = weight.sum()
    mean = np.asarray(start.means)
    deviation = np.asarray(start.deviations)
    share = np.asarray([1 - start.share, start.share])
    for _ in range(MAX_EM_STEPS):
        log_density = -0.5 * ((centre[:, None] - mean) / deviation) ** 2 + np.log(share / deviation)  # [bins, 2]
        upper = 1 / (1 + np.exp(np.clip(log_density[:, 0] - log_density[:, 1], -700, 700)))
        parts = np.stack([weight * (1 - upper), weight * upper])  # [2, bins]
        mass = np.maximum(parts.sum(axis=1), 1e-12)
        old = mean
        share = mass / total
        mean = (parts * centre).sum(axis=1) / mass
        spread = (parts * (centre - mean[:, None]) ** 2).sum(axis=1) / mass
        deviation = np.sqrt(np.maximum(spread, 1 / 12))
        if np.abs(mean - old).max() < EM_TOLERANCE:
            break
    crossing = _crossing(mean, deviation, share)
    if crossing is None:
        return None
    return Split(
        round(crossing),
        (float(mean[0]), float(mean[1])),
        (float(deviation[0]), float(deviation[1])),
        float(share[1]),
    )


def _crossing(mean: NDArray[np.float64], deviation: NDArray[np.float64], share: NDArray[np.float64]) -> float | None:
    """Root of share_0 N_0(x) = share_1 N_1(x) between the means, or None."""
    if not mean[0] < mean[1] or share.min() <= 0:
        return None
    precision = 1 / deviation**2
    quadratic = (precision[0] - precision[1]) / 2
    linear = precision[1] * mean[1] - precision[0] * mean[0]
    constant = (precision[0] * mean[0] ** 2 - precision[1] * mean[1] ** 2) / 2
    constant += np.log(share[1] / deviation[1]) - np.log(share[0] / deviation[0])
    roots = np.roots([quadratic, linear, constant] if abs(quadratic) > 1e-15 else [linear, constant])
    inside = [float(r.real) for r in roots if abs(r.imag) < 1e-9 and mean[0] < r.real < mean[1]]
    return inside[0] if inside else None


def _deviation(weight: NDArray[np.float64], centre: NDArray[np.float64], mean: float) -> float:
    variance = float((weight * (centre - mean) ** 2).sum() / weight.sum())
    return float(np.sqrt(max(variance, 1 / 12)))
