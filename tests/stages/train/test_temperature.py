from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.train.temperature import effective_size, find_temperature, softmax

scores = st.lists(st.integers(-1000, 1000), min_size=2, max_size=60, unique=True).map(
    lambda values: np.array(values, dtype=np.float64) / 16
)


@given(scores, st.floats(0.05, 0.999))
@settings(deadline=None, max_examples=200)
def test_find_temperature_any_scores_reaches_the_share(values: np.ndarray, share: float) -> None:
    reached = effective_size(softmax(values, find_temperature(values, share))) / len(values)
    least = 1 / len(values)
    assert reached == pytest.approx(max(share, least), abs=1e-6)


@given(scores, st.floats(1e-3, 1e3), st.floats(0.3, 0.95))
@settings(deadline=None)
def test_find_temperature_scaled_scores_scales(values: np.ndarray, factor: float, share: float) -> None:
    tau, scaled = find_temperature(values, share), find_temperature(values * factor, share)
    assert scaled == pytest.approx(tau * factor, rel=1e-5)


def test_find_temperature_whole_batch_is_infinite() -> None:
    values = np.array([1.0, 2.0, 3.0])
    assert find_temperature(values, 1.0) == np.inf
    assert softmax(values, np.inf).tolist() == [1 / 3] * 3


def test_find_temperature_equal_scores_is_infinite() -> None:
    assert find_temperature(np.full(5, 0.25), 0.5) == np.inf


def test_find_temperature_more_ties_at_the_top_than_wanted_gives_only_the_ties_weight() -> None:
    values = np.array([1.0, 1.0, 1.0, 0.0])
    weights = softmax(values, find_temperature(values, 0.3))
    np.testing.assert_allclose(weights, [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-12)


def test_find_temperature_two_scores_matches_closed_form() -> None:
    # w = s(d/tau), 1 - w; sum w^2 = 1 / (2 * 0.9) has w = (1 + 1/3) / 2, so d/tau = log 2
    assert find_temperature(np.array([0.0, 3.0]), 0.9) == pytest.approx(3.0 / np.log(2.0), rel=1e-9)


def test_softmax_large_scores_does_not_overflow() -> None:
    weights = softmax(np.array([1e8, 0.0]), 1e-3)
    assert weights.tolist() == [1.0, 0.0]


@given(scores, st.lists(st.floats(0.02, 1.0), min_size=2, max_size=6))
@settings(deadline=None)
def test_find_temperature_more_of_the_batch_wants_a_higher_one(values: np.ndarray, shares: list[float]) -> None:
    found = [find_temperature(values, share) for share in sorted(shares)]
    assert found == sorted(found)
    assert found[0] > 0


@given(scores, st.floats(0.1, 0.95), st.integers(-4096, 4096), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_find_temperature_knows_neither_level_nor_order(
    values: np.ndarray, share: float, level: int, random: object
) -> None:
    shuffled = values.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert find_temperature(shuffled + level, share) == pytest.approx(find_temperature(values, share), rel=1e-6)


@given(scores)
@settings(deadline=None)
def test_effective_size_grows_with_the_temperature_between_one_and_all(values: np.ndarray) -> None:
    sizes = [effective_size(softmax(values, tau)) for tau in np.geomspace(1e-6, 1e9, 40)]
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(sizes))
    assert sizes[0] == pytest.approx(1.0)  # scores are unique
    assert sizes[-1] == pytest.approx(len(values))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_find_temperature_works_at_any_size_of_scores(scale: float) -> None:
    """Scores are slopes over a length: their size depends on model and loss, and says nothing."""
    values = np.random.default_rng(0).normal(size=4096) * scale
    reached = effective_size(softmax(values, find_temperature(values, 0.9))) / 4096
    assert reached == pytest.approx(0.9, abs=1e-9)


def test_find_temperature_one_outlier_among_many_is_reached_too() -> None:
    values = np.zeros(4096)
    values[17] = 1e6
    reached = effective_size(softmax(values, find_temperature(values, 0.5))) / 4096
    assert reached == pytest.approx(0.5, abs=1e-9)


def test_softmax_equals_torchs_and_does_not_know_the_level() -> None:
    values = np.random.default_rng(1).normal(size=50)
    expected = torch.softmax(torch.from_numpy(values) / 0.05, dim=0).numpy()
    np.testing.assert_allclose(softmax(values, 0.05), expected, rtol=1e-12)
    np.testing.assert_allclose(softmax(values - 1e6, 0.05), expected, rtol=1e-6)


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=30), st.floats(0.1, 100))
def test_effective_size_does_not_know_the_sum_of_the_weights(weights: list[float], factor: float) -> None:
    values = np.array(weights)
    assert effective_size(values * factor) == pytest.approx(effective_size(values), rel=1e-9)
    assert 1 - 1e-9 <= effective_size(values) <= len(values) + 1e-9
