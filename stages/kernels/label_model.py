"""Snorkel's label model, fitted from integer co-occurrence counts instead of a label matrix.

`LabelModel.fit` sees the label matrix L only through O = L'L / n, through n itself (how close to 0 and 1 a
probability may come) and through each voter's coverage, the sums of O's diagonal. All three follow from counts that
add up over partitions, so the cost of a fit does not grow with the pool, and its parameters are Snorkel's own.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from snorkel.labeling.model import LabelModel

from stages.kernels.patterns import VoteCounts, one_hot, unpack
from stages.models.threads import fixed_threads

MIN_VOTERS = 3
"""Two voters do not determine the parameters."""


@dataclass(frozen=True)
class FitSettings:
    """How the parameters are sought."""

    steps: int = 1000
    learning_rate: float = 0.01
    l2: float = 0.0
    initial_precision: float = 0.7
    """P(Y = y | vote y) before the first step."""
    seed: int = 0


@dataclass(frozen=True)
class FittedLabelModel:
    """Learned parameters: plain numbers that travel to every partition."""

    prior: float
    """P(Y = keep)."""
    conditional: NDArray[np.float64]
    """[2m, 2]: P(voter j votes y | Y = c) at [2j + y, c], c = 0 drop, 1 keep."""
    accuracy: NDArray[np.float64]
    """[m]: Snorkel's weights, P(the vote is right | the voter votes); NaN for one that never votes."""
    final_loss: float

    def p_keep(self, patterns: NDArray[np.uint64]) -> NDArray[np.float64]:
        """P(Y = keep | votes) of each pattern: [p]; abstentions say nothing, all abstaining gives the prior."""
        votes = unpack(patterns, len(self.accuracy))
        log_likelihood = one_hot(votes) @ np.log(self.conditional) + np.log([1 - self.prior, self.prior])  # [p, 2]
        # log-sum-exp over two classes: no underflow, however many voters agree.
        return np.exp(log_likelihood[:, 1] - np.logaddexp(log_likelihood[:, 0], log_likelihood[:, 1]))


def fit_label_model(counts: VoteCounts, prior: float, settings: FitSettings) -> FittedLabelModel:
    """Fit Snorkel's label model with Adam.

    Args:
        counts: of the whole pool.
        prior: P(Y = keep), in (0, 1).
        settings: of the fit.

    Raises:
        ValueError: fewer than 3 voters.
    """
    model = _CountsLabelModel(counts)
    nobody = np.full((1, counts.num_voters), -1)
    with _own_random_state(), fixed_threads(1):
        model.fit(
            nobody,
            class_balance=[1 - prior, prior],
            progress_bar=False,
            n_epochs=settings.steps,
            lr=settings.learning_rate,
            l2=settings.l2,
            prec_init=settings.initial_precision,
            optimizer="adam",
            seed=settings.seed,
        )
        with torch.no_grad():
            final_loss = float(model._loss_mu(l2=0.0).item())
        with np.errstate(invalid="ignore", divide="ignore"):
            accuracy = np.where(counts.votes.sum(axis=1) > 0, model.get_weights(), np.nan)
    conditional = model.mu.detach().numpy().astype(np.float64)
    return FittedLabelModel(prior, conditional, accuracy, final_loss)


class _CountsLabelModel(LabelModel):  # type: ignore[misc]  # Snorkel has no types
    """Takes n, O and coverage from counts; the label matrix given to `fit` says only how many voters there are."""

    def __init__(self, counts: VoteCounts) -> None:
        super().__init__(cardinality=2, verbose=False)
        self._counts = counts

    def _create_L_ind(self, L: NDArray[np.int64]) -> NDArray[np.float64]:  # noqa: N802  # Snorkel's name
        return np.zeros((len(L), 2 * self._counts.num_voters))

    def _generate_O(self, L: NDArray[np.int64], higher_order: bool = False) -> None:  # noqa: N802
        self._get_augmented_label_matrix(L, higher_order)  # sets the clique data that the mask is built from
        self.n = self._counts.rows
        self.d = 2 * self._counts.num_voters
        self.O = torch.from_numpy(self._counts.cooccurrence / self.n).float()
        self.coverage = self._counts.votes.sum(axis=1) / self.n


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Snorkel seeds the global generators; whoever called must not notice."""
    python_state: Any = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002  # the global state is what Snorkel overwrites
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)  # noqa: NPY002
