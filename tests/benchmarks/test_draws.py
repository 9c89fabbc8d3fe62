"""Random numbers by row number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.scale.draws import bits, integers, normal, rows, shuffled, uniform

N = 50_000


@pytest.mark.parametrize("draw", [bits, uniform, normal, lambda row, seed, stream: integers(row, 7, seed, stream)])
def test_draw_of_a_piece_equals_that_piece_of_the_whole(draw):
    whole = draw(rows(0, 1000), 3, 5)
    assert np.array_equal(draw(rows(200, 700), 3, 5), whole[200:700])
    assert not np.array_equal(draw(rows(0, 1000), 4, 5), whole)
    assert not np.array_equal(draw(rows(0, 1000), 3, 6), whole)


def test_uniform_and_normal_draws_follow_their_distributions():
    assert stats.kstest(uniform(rows(0, N), 2), "uniform").pvalue > 1e-3
    assert stats.kstest(normal(rows(0, N), 2).astype(float), "norm").pvalue > 1e-3


def test_integers_are_all_drawn_and_none_beyond():
    drawn = integers(rows(0, N), 7, 1)
    assert stats.chisquare(np.bincount(drawn, minlength=7)).pvalue > 1e-3
    assert drawn.min() == 0
    assert drawn.max() == 6


def test_streams_of_one_row_are_unrelated():
    one, other = (uniform(rows(0, N), 1, stream) for stream in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


@settings(max_examples=60, deadline=None)
@given(num_rows=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1), stream=st.integers(0, 100))
def test_shuffled_rows_are_a_permutation_that_no_cut_changes(num_rows, seed, stream):
    place = shuffled(rows(0, num_rows), num_rows, seed, stream)
    assert np.array_equal(np.sort(place), rows(0, num_rows))
    half = num_rows // 2
    assert np.array_equal(shuffled(rows(half, num_rows), num_rows, seed, stream), place[half:])


def test_shuffled_rows_are_far_from_their_own_order():
    place = shuffled(rows(0, N), N, 0).astype(float)
    assert abs(stats.spearmanr(np.arange(N), place).statistic) < 0.02
