import numpy as np
import pytest
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
