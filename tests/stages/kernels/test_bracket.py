"""One-pass selection against sorting everything."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.kernels.bracket import (
    EVERYTHING,
    Bracket,
    Inside,
    bracket_of,
    expected_inside,
    inside,
    inside_keys,
    settle,
)
from stages.kernels.radix import Cut, Keys, ascending, order_key

VALUES = st.one_of(st.sampled_from([-1.5, -0.0, 0.0, 1e-40, 0.25, 0.25000003]), st.floats(-9, 9, width=32))


def kept_rows(values, positions, cut):
    return np.flatnonzero(cut.keeps(Keys((order_key(values), ascending(positions)))))


def parts_of(values, positions, edges, bracket, most=1 << 20):
    return [inside(values[a:b], positions[a:b], bracket, most) for a, b in itertools.pairwise(edges)]


@settings(max_examples=80)
@given(
    rows=st.lists(VALUES, max_size=60),
    k=st.integers(0, 70),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    ends=st.tuples(VALUES, VALUES),
)
def test_settled_cut_equals_a_full_sort_or_the_bracket_missed_the_row(rows, k, cuts, ends):
    values, positions = np.asarray(rows, np.float32), np.arange(len(rows), dtype=np.uint64)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    bracket = Bracket(min(ends), max(ends))
    order = np.lexsort((positions, -values))
    cut = settle(parts_of(values, positions, edges, bracket), k)
    if cut is None:
        last = values[order[min(k, len(rows)) - 1]]
        assert not bracket.low <= last <= bracket.high
    else:
        assert np.array_equal(kept_rows(values, positions, cut), np.sort(order[:k]))
    whole = settle(parts_of(values, positions, edges, EVERYTHING), k)
    assert np.array_equal(kept_rows(values, positions, whole), np.sort(order[:k]))


@settings(max_examples=80)
@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0, 1, 2**63, 2**64 - 1])), max_size=40),
    k=st.integers(0, 50),
    edge=st.integers(0, 40),
    ends=st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
def test_settled_cut_of_any_keys_equals_a_full_sort_or_the_bracket_missed_the_row(rows, k, edge, ends):
    first, second = (np.asarray(column, np.uint64) for column in (zip(*rows, strict=True) if rows else ([], [])))
    place = np.arange(len(rows), dtype=np.uint64)
    keys = Keys((first.astype(np.uint32), second, ascending(place)))
    order = np.lexsort((place, *(-column.astype(object) for column in (second, first)))) if rows else []
    for bracket in (Bracket(min(ends), max(ends)), EVERYTHING):
        halves = [keys.take(np.arange(len(rows)) < edge), keys.take(np.arange(len(rows)) >= edge)]
        cut = settle([inside_keys(half, bracket, 1 << 20) for half in halves], k)
        if cut is None:
            assert not bracket.low <= first[order[min(k, len(rows)) - 1]] <= bracket.high
        else:
            assert np.array_equal(np.flatnonzero(cut.keeps(keys)), np.sort(order[:k]))


def test_bracket_of_large_keys_is_exact():
    sample = np.asarray([2**64 - 1, 2**64 - 3, 2**64 - 2], np.uint64)
    bracket = bracket_of(np.repeat(sample, 400), 0.5)
    assert {bracket.low, bracket.high} <= set(sample.tolist())
    assert bracket.holds(sample).any()


def test_settled_cut_is_the_last_kept_row_itself():
    values, positions = np.asarray([3, 1, 2, 2], np.float32), np.asarray([5, 6, 7, 8], np.uint64)
    cut = settle(parts_of(values, positions, [0, 2, 4], Bracket(1.5, 2.5)), 2)
    assert cut == Cut((int(order_key(np.float32([2]))[0]), int(~np.uint64(7))))


def test_too_many_rows_inside_settle_nothing():
    values, positions = np.ones(10, np.float32), np.arange(10, dtype=np.uint64)
    (part,) = parts_of(values, positions, [0, 10], EVERYTHING, most=9)
    assert part == Inside(10, 0, None)
    assert settle([part], 3) is None
    assert settle([part], 0) == Cut(None)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.5, 0.97, 0.9999])
def test_bracket_of_a_sample_holds_the_row_and_few_others(share):
    rng = np.random.default_rng(3)
    values = np.round(rng.normal(size=400_000), 3).astype(np.float32)
    ordered = np.sort(values)[::-1]
    for _ in range(20):
        bracket = bracket_of(rng.choice(values, 20_000, replace=False), share)
        assert bracket.low <= ordered[int(share * len(values)) - 1] <= bracket.high
        num_inside = np.count_nonzero((values >= bracket.low) & (values <= bracket.high))
        assert num_inside < 1.5 * expected_inside(len(values), share, 20_000) + 4000  # one step of ties beside it


@pytest.mark.parametrize("share", [1.0, 2.0])
def test_bracket_of_all_rows_is_open_below(share):
    bracket = bracket_of(np.asarray([4, 1, 2, 3], np.float32), share)
    assert bracket.low == -np.inf
    assert bracket.high >= 1


def test_bracket_of_no_rows_is_open_above():
    bracket = bracket_of(np.asarray([4, 1, 2, 3], np.float32), 0.0)
    assert bracket.high == np.inf
    assert bracket.low <= 4


def test_bracket_of_one_row_is_open():
    assert bracket_of(np.float32([1]), 0.3) == EVERYTHING


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5])
def test_nothing_but_ties_is_expected_inside_at_the_ends(share):
    assert expected_inside(1 << 30, share, 100) == 0
