import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stages.report.bins import BinCounts

floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


def _values(n=1000, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0.2, 0.05, n).astype(np.float32), rng.integers(0, 3, n)


@given(hnp.arrays(np.float32, st.integers(0, 60), elements=floats), st.integers(0, 60))
def test_bins_sum_of_any_partition_equals_whole(values, cut):
    category = np.arange(len(values)) % 2
    whole = BinCounts.of(values, category, 2)
    parts = BinCounts.of(values[:cut], category[:cut], 2) + BinCounts.of(values[cut:], category[cut:], 2)
    assert np.array_equal(whole.bins, parts.bins)
    assert np.array_equal(whole.counts, parts.counts)
    assert whole.total == len(values)


def test_bins_counts_by_category_are_exact():
    values, category = _values()
    counts = BinCounts.of(values, category, 3).counts.sum(axis=0)
    assert counts.tolist() == np.bincount(category, minlength=3).tolist()


@given(hnp.arrays(np.float32, st.integers(1, 60), elements=floats))
def test_bins_edges_of_everything_enclose_every_value(values):
    low, high = BinCounts.of(values, np.zeros(len(values), int), 1).quantile_edges(0.0, 1.0)
    assert low <= values.min()
    assert high >= values.max()


def test_bins_quantile_edges_are_near_numpys():
    values, category = _values(20_000)
    low, high = BinCounts.of(values, category, 3).quantile_edges(0.05, 0.95)
    assert (low, high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])), rel=0.01)


def test_bins_percentile_follows_ranks_to_bin_width():
    values, category = _values(5000)
    share = BinCounts.of(values, category, 3).percentile(values)
    exact = (np.argsort(np.argsort(values)) + 0.5) / len(values)
    assert np.abs(share - exact).max() < 0.03
    assert np.all(np.diff(share[np.argsort(values)]) >= 0)


def test_bins_percentile_of_value_beyond_all_others_stays_inside():
    bins = BinCounts.of(np.array([1, 2, 3], np.float32), np.zeros(3, int), 1)
    assert 0 < bins.percentile(np.array([99], np.float32))[0] < 1


def test_bins_by_share_keeps_totals_and_equal_slices():
    values, category = _values(997)
    slices = BinCounts.of(values, category, 3).by_share(10)
    assert slices.sum(axis=1) == pytest.approx(np.full(10, 99.7))
    assert slices.sum(axis=0) == pytest.approx(np.bincount(category))


def test_bins_by_share_divides_one_wide_bin_in_proportion():
    values = np.full(40, 0.5, np.float32)
    slices = BinCounts.of(values, np.repeat([0, 1], [30, 10]), 2).by_share(4)
    assert slices == pytest.approx(np.tile([7.5, 2.5], (4, 1)))


def test_bins_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        BinCounts.of(np.array([np.nan], np.float32), np.zeros(1, int), 1)
