import numpy as np
import pytest

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
