"""From scores to weights of the samples of a global batch."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stages.train.config import EffectiveBatch
from stages.train.temperature import effective_size, find_temperature, softmax

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Weights:
    """Weights of a global batch, summing to 1 over the scored samples."""

    values: Vector
    """[B]; 0 for fillers."""
    temperature: float | None
    """Of the softmax; None where there was none."""
    effective_share: float
    """1 / sum(w^2) as a share of the scored samples."""


class Weighting(Protocol):
    """Decides how much each sample counts."""

    def weigh(self, scores: Vector | None, scored: npt.NDArray[np.bool_]) -> Weights:
        """Weights from scores m_i, [B] (None where nothing is scored); fillers are not `scored`."""


class Uniform:
    """All scored samples alike, whatever their scores."""

    def weigh(self, scores: Vector | None, scored: npt.NDArray[np.bool_]) -> Weights:
        """See `Weighting`."""
        del scores
        return Weights(scored / scored.sum(), None, 1.0)


class SoftmaxWeighting:
    """w = softmax(m / tau) over the scored samples of the global batch."""

    def __init__(self, temperature: float | EffectiveBatch) -> None:
        """Use a fixed tau, or find it in each batch."""
        self._temperature = temperature

    def weigh(self, scores: Vector | None, scored: npt.NDArray[np.bool_]) -> Weights:
        """See `Weighting`."""
        assert scores is not None, "weights by score need scores"
        own = scores[scored]
        given = self._temperature
        tau = find_temperature(own, given.effective_batch) if isinstance(given, EffectiveBatch) else given
        weights = np.zeros(len(scores))
        weights[scored] = softmax(own, tau)
        return Weights(weights, tau, effective_size(weights[scored]) / len(own))
