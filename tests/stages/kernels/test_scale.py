import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, rankdata

from stages.kernels.scale import Quantiles, batch_scales, batch_sizes, unit_interval

ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3)), min_size=1, max_size=60)


@given(ROWS)
def test_batch_scales_equal_scipy_batch_by_batch(rows):
    step = np.asarray([row[0] for row in rows], np.int32)
    score = np.asarray([row[1] / 3 for row in rows], np.float32)
    rank, z = batch_scales(step, score)
    for batch in np.unique(step):
        of = step == batch
        inside = score[of].astype(np.float64)
        assert rank[of] == pytest.approx((rankdata(inside) - 0.5) / of.sum())
        wanted = (inside - inside.mean()) / inside.std() if len(set(inside.tolist())) > 1 else np.zeros(of.sum())
        assert z[of] == pytest.approx(wanted, abs=1e-5)
    assert batch_sizes(step).tolist() == [int((step == batch).sum()) for batch in step]


@given(ROWS, st.randoms(use_true_random=False))
def test_batch_scales_do_not_depend_on_the_order_of_rows(rows, random):
    step = np.asarray([row[0] for row in rows])
    score = np.asarray([row[1] / 7 for row in rows], np.float32)
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    for one, other in zip(batch_scales(step, score), batch_scales(step[shuffled], score[shuffled]), strict=True):
        assert np.array_equal(one[shuffled], other)


def test_batch_scales_of_a_constant_batch_are_the_middle():
    rank, z = batch_scales(np.zeros(3, int), np.full(3, 0.1, np.float32))
    assert rank.tolist() == [0.5] * 3
    assert z.tolist() == [0.0] * 3


def test_batch_scales_of_nothing_are_nothing():
    assert [len(scale) for scale in batch_scales(np.empty(0, int), np.empty(0, np.float32))] == [0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_batch_scales_refuse_what_is_not_finite(bad):
    with pytest.raises(ValueError, match="row 1 \\(step 8\\)"):
        batch_scales(np.asarray([8, 8]), np.asarray([0, bad], np.float32))


def test_batch_scales_golden():
    rank, z = batch_scales(np.asarray([5, 3, 5, 5, 3]), np.asarray([2, 1, 0, 1, 4], np.float32))
    assert rank.tolist() == [np.float32(5 / 6), 0.25, np.float32(1 / 6), 0.5, 0.75]
    assert z.tolist() == [np.float32(1.5**0.5), -1.0, np.float32(-(1.5**0.5)), 0.0, 1.0]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40))
def test_unit_interval_is_in_zero_one_and_keeps_the_order(values):
    array = np.sort(np.asarray(values, np.float32))
    quantiles = Quantiles(Quantiles.count(array))
    for scale in ("batch_z", "raw"):
        unit = unit_interval(array, scale, quantiles)
        assert (np.diff(unit) >= 0).all()
        assert 0 <= unit.min() <= unit.max() <= 1
    unit = unit_interval(np.abs(np.sort(np.abs(array))), "weight")
    assert (np.diff(unit) >= 0).all()


def test_unit_interval_values():
    assert unit_interval(np.asarray([0.25], np.float32), "batch_rank").tolist() == [0.25]
    assert unit_interval(np.asarray([1.0, 3.0], np.float32), "weight").tolist() == [0.5, 0.75]
    assert unit_interval(np.asarray([1.25], np.float32), "batch_z") == pytest.approx(norm.cdf(1.25))


def test_quantiles_place_values_close_to_their_rank_and_add_up():
    values = np.random.default_rng(0).lognormal(0, 2, 5000).astype(np.float32)
    counts = Quantiles.count(values[:1234]) + Quantiles.count(values[1234:])
    place = Quantiles(counts).place(values)
    assert place == pytest.approx((rankdata(values) - 0.5) / 5000, abs=0.005)


@given(ROWS, st.sampled_from([0, -5, 1 << 40]))
def test_batch_scales_and_sizes_do_not_depend_on_how_rows_are_sorted(rows, far):
    """Steps too far apart, and scores of another type, take another way to the same numbers."""
    step = np.asarray([row[0] for row in rows], np.int64)
    score = np.asarray([row[1] / 3 if row[1] else -0.0 for row in rows], np.float32)
    spread = np.where(step > 2, step + far, step)
    packed = batch_scales(step, score)
    for one, other in zip(packed, batch_scales(spread, score), strict=True):
        assert np.array_equal(one, other)
    for one, other in zip(packed, batch_scales(step, score.astype(np.float64)), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(batch_sizes(spread), batch_sizes(step))
