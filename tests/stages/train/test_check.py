import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from pipeline.errors import RunError
from stages.train.check import Correlation, correlate, uninformative_error

pairs = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=40)


@given(pairs)
def test_correlate_one_batch_equals_scipy(values: list[tuple[int, int]]) -> None:
    scores, drops = (np.array(column, dtype=np.float64) for column in zip(*values, strict=True))
    found = correlate([(scores, drops)])
    if len(set(scores)) == 1 or len(set(drops)) == 1:
        assert found.spearman == 0.0
    else:
        assert found.spearman == pytest.approx(spearmanr(scores, drops).statistic, abs=1e-12)
    assert found.samples == len(values)


def test_correlate_equal_batches_is_their_mean() -> None:
    generator = np.random.default_rng(0)
    batches = [(generator.normal(size=20), generator.normal(size=20)) for _ in range(5)]
    expected = np.mean([spearmanr(scores, drops).statistic for scores, drops in batches])
    assert correlate(batches).spearman == pytest.approx(expected, abs=1e-12)


def test_correlate_batches_of_other_level_are_ranked_by_themselves() -> None:
    low, high = np.arange(10.0), np.arange(10.0) + 1000
    assert correlate([(low, high), (high, low)]).spearman == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("spearman", "verdict"),
    [
        (0.9, "informative"),
        (0.05, "informative"),
        (0.049, "uninformative"),
        (-0.05, "uninformative"),
        (-0.051, "inverted"),
    ],
)
def test_verdict_at_its_bounds(spearman: float, verdict: str) -> None:
    assert Correlation(spearman, 1024).verdict == verdict


@pytest.mark.parametrize("spearman", [0.0, -0.5])
def test_uninformative_error_says_what_was_measured_and_what_to_do(spearman: float) -> None:
    error = uninformative_error(Correlation(spearman, 1024), "reference")
    assert isinstance(error, RunError)
    assert error.exit_code == 1
    for part in (f"{spearman:.3f} on 1,024 samples", "at least 0.05", "reference.on_uninformative: warn"):
        assert part in str(error)
