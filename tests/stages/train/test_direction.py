import math

import pytest
import torch

from pipeline.errors import UserError
from stages.train.direction import WeightDifference, norm


def test_weight_difference_follows_the_current_weights() -> None:
    direction = WeightDifference({"a": torch.tensor([3.0, 4.0])})
    assert direction.at({"a": torch.tensor([0.0, 0.0])})["a"].tolist() == [3.0, 4.0]
    assert direction.at({"a": torch.tensor([3.0, 1.0])})["a"].tolist() == [0.0, 3.0]


def test_norm_spans_all_parameters() -> None:
    assert norm({"b": torch.tensor([[4.0]]), "a": torch.tensor([3.0])}) == 5.0


def test_norm_of_no_direction_is_refused() -> None:
    with pytest.raises(UserError, match="length zero"):
        norm({"a": torch.zeros(2)})


def test_norm_of_diverged_weights_is_left_to_the_loss_to_tell() -> None:
    assert math.isnan(norm({"a": torch.full((2,), math.nan)}))
