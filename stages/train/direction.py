"""The target direction v, along which a sample's gradient is measured."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from pipeline.errors import UserError


class Direction(Protocol):
    """Gives v for the mimicked parameters; it need not be a difference of weights."""

    def at(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The direction at the current weights theta_t, by parameter name."""


class WeightDifference:
    """v = theta_ref - theta_t, read anew each step."""

    def __init__(self, reference: Mapping[str, Tensor]) -> None:
        """Take the reference's values of the mimicked parameters, theta_ref."""
        self._reference = dict(reference)

    def at(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Direction`."""
        return {name: target - weights[name].detach() for name, target in self._reference.items()}


def norm(direction: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all parameters together, in float64.

    Raises:
        UserError: the direction is zero, so no sample can be compared with it.
    """
    squares = [tensor.double().square().sum() for _, tensor in sorted(direction.items())]
    length = float(torch.stack(squares).sum().sqrt())
    if length == 0:  # NaN passes: it is the loss that tells of a training that diverged
        raise UserError(
            "the direction to mimic has length zero",
            where=", ".join(sorted(direction)),
            expected="a reference that differs from the student in these parameters",
            found="equal weights",
            next_step="use another reference, or other `train.mimic.parameters`",
        )
    return length
