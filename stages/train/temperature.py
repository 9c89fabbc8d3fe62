"""The temperature at which a batch weighs as many samples as wanted."""

import numpy as np
import numpy.typing as npt

_BISECTIONS = 200


def softmax(scores: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """exp(m / tau), scaled to sum 1; an infinite temperature weighs all alike. Shapes [n] -> [n]."""
    raised = np.exp((scores - scores.max()) / temperature)
    weights: npt.NDArray[np.float64] = raised / raised.sum()
    return weights


def effective_size(weights: npt.NDArray[np.float64]) -> float:
    """How many equally weighted samples would count as much: (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / np.square(weights).sum())


def find_temperature(scores: npt.NDArray[np.float64], share: float) -> float:
    """The tau at which 1 / sum(w^2) is `share` of the batch, by bisection of log tau.

    The effective size grows with tau, from the number of greatest scores that tie to the whole batch.

    Args:
        scores: finite, [n].
        share: in (0, 1].

    Returns:
        tau > 0; infinity where all samples must weigh alike, and the least temperature tried where ties at the
        top make more samples count than wanted.
    """
    spread = float(scores.max() - scores.min())
    wanted = share * len(scores)
    if share >= 1.0 or spread == 0.0:
        return float("inf")
    low, high = np.log(spread) - 20.0, np.log(spread) + 20.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if effective_size(softmax(scores, float(np.exp(middle)))) < wanted:
            low = middle
        else:
            high = middle
        if high - low < 1e-14 * max(1.0, abs(high)):
            break
    return float(np.exp(high))
