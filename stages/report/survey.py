"""Two passes over the buckets: how scores are spread, what became of them, and what truth says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import Engine
from stages.report.bins import BinCounts
from stages.report.view import NUM_CATEGORIES, BucketView, Pool

NUM_BARS = 40
"""Bars of a histogram."""
_OUTSIDE = 0.002
"""Share of the values at each end that falls into the outermost bar."""

_Key = TypeVar("_Key")

Visit = tuple[str, int]
"""Name of a source, number of the visit."""


@dataclass(frozen=True)
class Tally:
    """Sums over buckets of the first pass."""

    means: Mapping[str, BinCounts]
    """By source: mean value a sample, by category."""
    values: Mapping[Visit, BinCounts]
    """By source and visit: values as recorded, one category."""
    clean: NDArray[np.int64]
    """[2, 2]: dropped or kept, ill or clean, of untrusted usable samples with known truth."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(_merged(self.means, other.means), _merged(self.values, other.values), self.clean + other.clean)


@dataclass(frozen=True)
class Histogram:
    """Values of one visit in equal steps."""

    low: float
    high: float
    counts: NDArray[np.int64]
    """[NUM_BARS, NUM_CATEGORIES]; what lies outside counts in the outermost bar."""


@dataclass(frozen=True)
class Survey:
    """All that was counted."""

    tally: Tally
    histograms: Mapping[Visit, Histogram]


def survey(engine: Engine, pool: Pool) -> Survey:
    """Count, choose the frame of each histogram, count again inside the frames."""
    groups = pool.groups
    tallies = engine.map(partial(_tally, pool), groups, name="report: survey", unit="buckets", weigh=len)
    tally = reduce(Tally.__add__, tallies)
    frames = {visit: bins.quantile_edges(_OUTSIDE, 1 - _OUTSIDE) for visit, bins in tally.values.items() if bins.total}
    parts = engine.map(partial(_histograms, pool, frames), groups, name="report: spread", unit="buckets", weigh=len)
    histograms = {
        visit: Histogram(
            low, high, sum((part[visit] for part in parts), np.zeros((NUM_BARS, NUM_CATEGORIES), np.int64))
        )
        for visit, (low, high) in frames.items()
    }
    return Survey(tally, histograms)


def _tally(pool: Pool, buckets: Sequence[int]) -> Tally:
    return reduce(Tally.__add__, map(_tally_bucket, pool.views(buckets)))


def _tally_bucket(view: BucketView) -> Tally:
    means = {}
    for name, averages in view.means().items():
        scored = ~np.isnan(averages)
        means[name] = BinCounts.of(averages[scored], view.category[scored], NUM_CATEGORIES)
    recorded = {}
    for source in view.pool.sources:
        table = source.by_visit(view.bucket)
        visits, values = table["visit"].to_numpy(), table["value"].to_numpy()
        for visit in range(source.visits):
            chosen = values[visits == visit]
            recorded[source.name, visit] = BinCounts.of(chosen, np.zeros(len(chosen), np.int64), 1)
    judged = (view.verdict[:, 1] >= 0) & (view.verdict[:, 2] != 1)
    clean = np.zeros((2, 2), np.int64)
    np.add.at(clean, (view.kept[judged].astype(int), view.verdict[judged, 1].astype(int)), 1)
    return Tally(means, recorded, clean)


def _histograms(
    pool: Pool, frames: Mapping[Visit, tuple[float, float]], buckets: Sequence[int]
) -> dict[Visit, NDArray[np.int64]]:
    counts = {visit: np.zeros((NUM_BARS, NUM_CATEGORIES), np.int64) for visit in frames}
    for view in pool.views(buckets):
        category = view.category
        for source in pool.sources:
            table = source.by_visit(view.bucket)
            row = view.rows_of(table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy())
            visits, values = table["visit"].to_numpy(), table["value"].to_numpy().astype(np.float64)
            for visit in range(source.visits):
                if (source.name, visit) not in frames:
                    continue
                chosen = (visits == visit) & (row >= 0)
                bar = _bars(values[chosen], *frames[source.name, visit])
                cells = bar * NUM_CATEGORIES + category[row[chosen]]
                found = np.bincount(cells, minlength=NUM_BARS * NUM_CATEGORIES)
                counts[source.name, visit] += found.reshape(NUM_BARS, NUM_CATEGORIES)
    return counts


def _bars(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.int64]:
    width = (high - low) / NUM_BARS
    bars = np.floor((values - low) / (width or 1.0)).astype(np.int64)
    return np.clip(bars, 0, NUM_BARS - 1)


def _merged(one: Mapping[_Key, BinCounts], other: Mapping[_Key, BinCounts]) -> dict[_Key, BinCounts]:
    return {key: bins + other[key] for key, bins in one.items()}
