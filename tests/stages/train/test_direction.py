import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5), min_size=1, max_size=4))
def test_norm_equals_numpys_whatever_the_order_of_names(values: list[list[float]]) -> None:
    direction = {f"p{number}": torch.tensor(row, dtype=torch.float64) for number, row in enumerate(values)}
    expected = float(np.linalg.norm(np.concatenate(values)))
    if expected * expected == 0:
        with pytest.raises(UserError, match="length zero"):
            norm(direction)
        return
    assert norm(direction) == pytest.approx(expected, rel=1e-12)
    assert norm(dict(reversed(direction.items()))) == norm(direction)


def test_norm_of_float32_is_summed_in_float64() -> None:
    """A million small differences: a float32 sum would lose some of them."""
    direction = {"a": torch.full((1 << 20,), 1e-4), "b": torch.tensor([1e3])}
    assert norm(direction) == pytest.approx(np.sqrt(1e6 + (1 << 20) * float(np.float32(1e-4)) ** 2), rel=1e-12)


def test_direction_is_no_part_of_any_graph() -> None:
    weight = torch.ones(2, requires_grad=True)
    assert not WeightDifference({"a": torch.zeros(2)}).at({"a": weight})["a"].requires_grad


def test_error_of_a_zero_direction_names_its_parameters() -> None:
    with pytest.raises(UserError) as caught:
        norm({"visual.proj": torch.zeros(2), "ln_final.bias": torch.zeros(1)})
    assert caught.value.parts["where"] == "ln_final.bias, visual.proj"
