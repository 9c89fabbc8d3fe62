"""Do the scores foretell which samples the reference does better on?"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import RunError

INFORMATIVE, INVERTED = 0.05, -0.05
"""Rank correlations from which scores are informative, and below which they point the wrong way."""

Verdict = Literal["informative", "uninformative", "inverted"]
Vector = npt.NDArray[np.float64]


class Correlation(NamedTuple):
    """How scores go with loss drops."""

    spearman: float
    samples: int

    @property
    def verdict(self) -> Verdict:
        """What it means for a selection by these scores."""
        if self.spearman >= INFORMATIVE:
            return "informative"
        return "inverted" if self.spearman < INVERTED else "uninformative"


def correlate(batches: Sequence[tuple[Vector, Vector]]) -> Correlation:
    """Rank correlation of scores with loss drops, each batch ranked by itself.

    Scores are comparable only within a batch, so ranks are taken there, centred, and one correlation is computed
    over all of them: for batches of one size the mean of their Spearman correlations.

    Args:
        batches: (scores m_i, drops l_i(theta_0) - l_i(theta_ref)) of each batch, [n] each.

    Returns:
        Correlation 0 where nothing varies.
    """
    pairs = [(_centred_ranks(scores), _centred_ranks(drops)) for scores, drops in batches]
    x, y = (np.concatenate(side) for side in zip(*pairs, strict=True))
    scale = float(np.sqrt(np.square(x).sum() * np.square(y).sum()))
    return Correlation(float((x * y).sum()) / scale if scale > 0 else 0.0, len(x))


def uninformative_error(found: Correlation, where: str) -> RunError:
    """What to tell who wants the run to stop on such a reference."""
    if found.verdict == "inverted":
        meaning = "samples that the reference does better on score lower, so that the worse ones are kept"
    else:
        meaning = "scores do not tell samples that the reference does better on from others"
    return RunError(
        f"the reference is {found.verdict}: {meaning}",
        where=where,
        expected=f"rank correlation of score and loss drop of at least {INFORMATIVE}",
        found=f"{found.spearman:.3f} on {found.samples:,} samples",
        next_step="let student and reference share their lineage (reference.base, then reference.tune on verified "
        "samples), use a better reference, or set `reference.on_uninformative: warn`",
    )


def _centred_ranks(values: Vector) -> Vector:
    """Ranks 0..n-1, ties at their mean, minus their mean."""
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values))
    ranks[order] = np.arange(len(values), dtype=np.float64)
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    means: Vector = np.bincount(group, weights=ranks) / sizes
    return means[group] - (len(values) - 1) / 2
