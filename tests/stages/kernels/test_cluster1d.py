import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from stages.kernels.cluster1d import NUM_BINS, Bins, gaussian_mixture, two_means


def histogram(values):
    bins = Bins(float(values.min()), float(values.max()))
    return bins, bins.count(values)


def two_groups(n=4000, share=0.3, distance=4.0, spread=(1.0, 0.7), seed=0):
    rng = np.random.default_rng(seed)
    upper = rng.random(n) < share
    return np.where(upper, rng.normal(distance, spread[1], n), rng.normal(0, spread[0], n)).astype(np.float32)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50), st.integers(0, 50))
def test_bins_count_adds_up_and_keeps_the_order(values, cut):
    array = np.asarray(values, np.float32)
    bins, counts = histogram(array)
    assert np.array_equal(counts, bins.count(array[:cut]) + bins.count(array[cut:]))
    assert counts.sum() == len(array)
    assert (np.diff(bins.index(np.sort(array))) >= 0).all()


def test_bins_edges_begin_their_bins():
    bins = Bins(-1.0, 3.0)
    assert [bins.edge(bin_) for bin_ in (0, NUM_BINS // 2, NUM_BINS)] == [-1.0, 1.0, 3.0]
    assert bins.index(np.asarray([-1.0, 1.0, 3.0])).tolist() == [0, NUM_BINS // 2, NUM_BINS - 1]


@given(st.dictionaries(st.integers(0, 2000), st.integers(1, 5), min_size=2, max_size=9))
def test_two_means_finds_the_least_squares_of_all_splits(found):
    counts = np.zeros(NUM_BINS, np.int64)
    for bin_, count in found.items():
        counts[bin_] = count
    points = np.repeat(np.flatnonzero(counts) + 0.5, counts[counts > 0])
    distinct = np.unique(points)

    def error(edge):
        return sum(((side - side.mean()) ** 2).sum() for side in (points[points < edge], points[points >= edge]))

    best = min(error((a + b) / 2) for a, b in itertools.pairwise(distinct))
    split = two_means(counts)
    middle = sum(split.means) / 2
    assert error(middle) == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert abs(split.cut - middle) <= 0.5


def test_two_means_agrees_with_scikit_learn():
    values = two_groups()
    bins, counts = histogram(values)
    centres = KMeans(2, n_init=5, random_state=0).fit(values[:, None]).cluster_centers_
    assert bins.edge(two_means(counts).cut) == pytest.approx(centres.mean(), abs=0.01)


@pytest.mark.parametrize("spread", [(1.0, 1.0), (1.0, 0.4), (0.3, 1.2)])
def test_gaussian_mixture_agrees_with_scikit_learn(spread):
    values = two_groups(spread=spread)
    bins, counts = histogram(values)
    split = gaussian_mixture(counts)
    model = GaussianMixture(2, random_state=0, tol=1e-8, max_iter=2000, n_init=3).fit(values[:, None])
    order = np.argsort(model.means_[:, 0])
    width = (bins.high - bins.low) / NUM_BINS
    assert np.asarray(split.means) * width + bins.low == pytest.approx(model.means_[order, 0], abs=0.01)
    assert np.asarray(split.deviations) * width == pytest.approx(model.covariances_[order, 0, 0] ** 0.5, abs=0.01)
    assert split.share == pytest.approx(model.weights_[order[1]], abs=0.01)
    grid = np.linspace(*sorted(model.means_[:, 0]), 20_001)
    upper = model.predict_proba(grid[:, None])[:, order[1]] > 0.5
    crossing = grid[np.argmax(upper)]
    assert bins.edge(split.cut) == pytest.approx(crossing, abs=0.02)


@pytest.mark.parametrize("fit", [two_means, gaussian_mixture])
def test_clusters_of_one_bin_have_no_split(fit):
    counts = np.zeros(NUM_BINS, np.int64)
    assert fit(counts) is None
    counts[77] = 1000
    assert fit(counts) is None


@pytest.mark.parametrize("offset", [0.0, 0.05])
def test_gaussian_mixture_of_a_heap_on_a_wide_one_has_no_crossing_between_the_means(offset):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 0.1, 20_000), rng.normal(offset, 5, 20_000)])
    assert gaussian_mixture(histogram(values)[1]) is None


@pytest.mark.parametrize("fit", [two_means, gaussian_mixture])
def test_clusters_golden(fit):
    counts = np.zeros(NUM_BINS, np.int64)
    counts[[1000, 2000, 3000, 41_000, 43_000]] = [10, 30, 10, 20, 20]
    split = fit(counts)
    assert split.means == pytest.approx((2000.5, 42_000.5))
    assert split.cut == {two_means: 22_000, gaussian_mixture: 17_508}[fit]
