from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.train.config import EffectiveBatch
from stages.train.weighting import SoftmaxWeighting, Uniform

SCORED = np.array([True, True, False, True])


def test_uniform_weighs_scored_samples_alike() -> None:
    weights = Uniform().weigh(np.array([5.0, 1.0, 9.0, 2.0]), SCORED)
    assert weights.values.tolist() == [1 / 3, 1 / 3, 0.0, 1 / 3]
    assert weights.temperature is None
    assert weights.effective_share == 1.0


def test_softmax_weighs_scored_samples_by_exponential() -> None:
    scores = np.array([0.0, np.log(2.0), 99.0, np.log(5.0)])
    weights = SoftmaxWeighting(1.0).weigh(scores, SCORED)
    np.testing.assert_allclose(weights.values, [1 / 8, 2 / 8, 0, 5 / 8])
    assert weights.effective_share == pytest.approx(64 / 30 / 3)


def test_softmax_effective_batch_reaches_share_of_the_scored() -> None:
    weighting = SoftmaxWeighting(EffectiveBatch(effective_batch=0.6))
    weights = weighting.weigh(np.array([0.1, 0.7, 50.0, -0.4]), SCORED)
    assert 1 / np.square(weights.values).sum() == pytest.approx(0.6 * 3, rel=1e-9)
    assert weights.effective_share == pytest.approx(0.6, rel=1e-9)
    assert weights.temperature is not None


def test_softmax_without_scores_is_refused() -> None:
    with pytest.raises(AssertionError, match="need scores"):
        SoftmaxWeighting(1.0).weigh(None, SCORED)


vectors = st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=1, max_size=40).filter(
    lambda rows: any(scored for _, scored in rows)
)
temperatures = st.one_of(
    st.floats(1e-3, 1e3), st.floats(0.05, 1.0).map(lambda share: EffectiveBatch(effective_batch=share))
)


@given(vectors, temperatures)
@settings(deadline=None)
def test_softmax_weights_are_a_distribution_that_follows_the_scores(rows: list[tuple[float, bool]], tau: Any) -> None:
    scores, scored = (np.array(column) for column in zip(*rows, strict=True))
    found = SoftmaxWeighting(tau).weigh(scores.astype(np.float64), scored)
    assert found.values.sum() == pytest.approx(1.0)
    assert not found.values[~scored].any(), "fillers count nothing"
    order = np.argsort(scores[scored], kind="stable")
    assert (np.diff(found.values[scored][order]) >= -1e-12).all(), "a higher score never weighs less"
    assert 0 < found.effective_share <= 1 + 1e-9
    size = 1 / np.square(found.values).sum()
    assert found.effective_share * scored.sum() == pytest.approx(size, rel=1e-9)


@given(vectors, temperatures, st.floats(-1e6, 1e6))
@settings(deadline=None)
def test_scores_of_fillers_change_no_weight(rows: list[tuple[float, bool]], tau: Any, other: float) -> None:
    scores, scored = (np.array(column) for column in zip(*rows, strict=True))
    one = SoftmaxWeighting(tau).weigh(scores.astype(np.float64), scored)
    two = SoftmaxWeighting(tau).weigh(np.where(scored, scores, other), scored)
    np.testing.assert_array_equal(one.values, two.values)
    assert one.temperature == two.temperature


@given(vectors)
def test_uniform_knows_no_scores(rows: list[tuple[float, bool]]) -> None:
    scores, scored = (np.array(column) for column in zip(*rows, strict=True))
    with_scores, without = Uniform().weigh(scores, scored), Uniform().weigh(None, scored)
    np.testing.assert_array_equal(with_scores.values, without.values)
    assert with_scores.values.sum() == pytest.approx(1.0)
    assert np.unique(with_scores.values[scored]).size == 1


def test_single_scored_sample_has_all_weight_at_any_temperature() -> None:
    scored = np.array([False, True, False])
    for tau in (1e-6, 1e6, EffectiveBatch(effective_batch=0.5)):
        found = SoftmaxWeighting(tau).weigh(np.array([9.0, -3.0, 2.0]), scored)
        assert found.values.tolist() == [0.0, 1.0, 0.0]
        assert found.effective_share == 1.0
