import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stages.kernels import patterns as kernel
from stages.kernels.patterns import (
    ALL_ABSTAIN,
    MAX_VOTERS,
    by_pattern,
    count_votes,
    distinct_patterns,
    one_hot,
    pack,
    unpack,
)

MATRICES = st.integers(1, MAX_VOTERS).flatmap(
    lambda m: arrays(np.int8, st.tuples(st.integers(1, 20), st.just(m)), elements=st.integers(-1, 1))
)


@given(MATRICES)
def test_unpack_inverts_pack(votes):
    assert np.array_equal(unpack(pack(list(votes.T)), votes.shape[1]), votes)


def test_pack_is_base_three_with_the_first_voter_lowest():
    votes = np.asarray([[-1, -1, -1], [1, -1, -1], [0, 1, -1], [1, 1, 1]], np.int8)
    assert pack(list(votes.T)).tolist() == [ALL_ABSTAIN, 2, 1 + 2 * 3, 26]
    assert pack([np.ones(1, np.int8)] * MAX_VOTERS).tolist() == [3**MAX_VOTERS - 1]
    with pytest.raises(ValueError, match="41 voters"):
        pack([np.ones(1, np.int8)] * 41)


def count(votes):
    patterns, counts = np.unique(pack(list(votes.T)), return_counts=True)
    return count_votes(patterns, counts, votes.shape[1])


@given(MATRICES)
def test_count_votes_equals_counting_rows(votes):
    found = count(votes)
    x = one_hot(votes).astype(int)
    assert np.array_equal(found.cooccurrence, x.T @ x)
    cast = votes >= 0
    others = cast.sum(axis=1, keepdims=True) - cast
    assert np.array_equal(found.overlap, (cast & (others > 0)).sum(axis=0))
    differs = (votes[:, :, None] != votes[:, None, :]) & cast[:, :, None] & cast[:, None, :]
    assert np.array_equal(found.conflict, differs.any(axis=2).sum(axis=0))
    assert (found.rows, found.voted) == (len(votes), cast.any(axis=1).sum())
    assert np.array_equal(found.votes, np.stack([(votes == 0).sum(axis=0), (votes == 1).sum(axis=0)], axis=1))


@given(MATRICES, st.integers(0, 20))
def test_count_votes_adds_up_over_partitions(votes, cut):
    cut = min(cut, len(votes) - 1)
    whole = count(votes)
    parts = count(votes[cut:]) + count(votes[:cut]) if cut else count(votes)
    for name in ("rows", "voted", "cooccurrence", "overlap", "conflict"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))


def test_one_hot_leaves_abstentions_empty():
    assert one_hot(np.asarray([[-1, 0, 1]], np.int8)).tolist() == [[0, 0, 1, 0, 0, 1]]


@pytest.mark.parametrize("table_voters", [0, 40])
@given(arrays(np.int8, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.integers(-1, 1)))
def test_distinct_patterns_by_table_or_by_sorting_equal_unique(table_voters, votes):
    packed = pack(list(votes.T))
    weights = np.arange(1, len(packed) + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "_TABLE_VOTERS", table_voters)
        distinct, counts = distinct_patterns(packed, votes.shape[1])
        weighted = distinct_patterns(packed, votes.shape[1], weights)
        values = by_pattern(packed, votes.shape[1], lambda each: (each / 3).astype(np.float32))
    expected, times = np.unique(packed, return_counts=True)
    assert np.array_equal(distinct, expected)
    assert np.array_equal(counts, times)
    assert np.array_equal(weighted[0], expected)
    assert weighted[1].tolist() == [int(weights[packed == each].sum()) for each in expected]
    assert np.array_equal(values, (packed / 3).astype(np.float32))


def test_pack_and_count_do_not_depend_on_blocks(monkeypatch):
    votes = np.random.default_rng(0).integers(-1, 2, (1000, 5)).astype(np.int8)
    whole, counted = pack(list(votes.T)), count(votes)
    monkeypatch.setattr(kernel, "_BLOCK", 7)
    assert np.array_equal(pack(list(votes.T)), whole)
    blocks = count(votes)
    for name in ("rows", "voted", "cooccurrence", "overlap", "conflict"):
        assert np.array_equal(getattr(blocks, name), getattr(counted, name))


def test_by_pattern_asks_once_for_each_pattern_that_occurs():
    asked = []
    packed = pack([np.asarray([1, 1, 0, -1], np.int8), np.asarray([0, 0, 0, 1], np.int8)])
    by_pattern(packed, 2, lambda each: asked.append(each.tolist()) or each.astype(np.float32))
    assert asked == [sorted(set(packed.tolist()))]
