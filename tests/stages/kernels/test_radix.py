import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.kernels import radix
from stages.kernels.radix import Cut, Keys, ascending, float_of_key, order_key, select, top_count

FLOATS = st.floats(width=32, allow_nan=False)
TIED = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 1e-40, 0.25, 0.25000003, np.inf])


def keys_of(values, further, uids):
    return Keys((order_key(values), order_key(further), ascending(uids)))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@given(values=st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=50))
def test_order_key_orders_floats_with_equal_zeros(kind, values):
    array = np.asarray(values, kind)
    keys = order_key(array)
    assert np.array_equal(keys[:, None] < keys, array[:, None] < array)
    assert np.array_equal(keys[:, None] == keys, array[:, None] == array)


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.uint8, np.uint64, np.bool_])
def test_order_key_orders_integers(kind):
    values = (
        np.asarray([0, 1, 1], kind)
        if kind is np.bool_
        else np.asarray([np.iinfo(kind).min, 0, np.iinfo(kind).max], kind)
    )
    keys = order_key(values)
    assert np.array_equal(keys[:, None] < keys, values[:, None] < values)


def test_order_key_refuses_nan_and_text():
    with pytest.raises(ValueError, match="1 of 3"):
        order_key(np.asarray([1, np.nan, 2], np.float32))
    with pytest.raises(TypeError):
        order_key(np.asarray(["a"]))


@given(FLOATS)
def test_float_of_key_inverts_order_key(value):
    assert float_of_key(int(order_key(np.asarray([value], np.float32))[0])) == value


@pytest.mark.parametrize(
    ("fraction", "n", "k"), [(0.29, 100, 29), (0.3, 10, 3), (0.1, 9, 0), (1.0, 7, 7), (0.57, 100, 57), (1e-9, 10**9, 1)]
)
def test_top_count_is_exact_decimal(fraction, n, k):
    assert top_count(fraction, n) == k


@pytest.mark.parametrize("collected", [0, 3, 1 << 16])
@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(st.one_of(TIED, FLOATS), TIED), max_size=60),
    k=st.integers(0, 70),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    seed=st.integers(0, 99),
)
def test_select_equals_a_full_sort_for_any_partitioning(collected, rows, k, cuts, seed):
    values = np.asarray([row[0] for row in rows], np.float32)
    further = np.asarray([row[1] for row in rows], np.float64)
    uids = np.random.default_rng(seed).permutation(len(rows)).astype(np.uint64) << np.uint64(50)
    keys = keys_of(values, further, uids)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = [keys.take(np.arange(start, end)) for start, end in itertools.pairwise(edges)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radix, "MAX_COLLECTED", collected)
        kept = select(parts, k).keeps(keys)
    order = np.lexsort((uids, -further, -values))
    assert np.array_equal(np.flatnonzero(kept), np.sort(order[:k]))


def test_select_cut_lies_between_the_last_kept_row_and_the_next():
    keys = keys_of(np.asarray([3, 1, 2], np.float32), np.zeros(3), np.arange(3, dtype=np.uint64))
    cut = select([keys], 2)
    later = keys_of(np.asarray([2, 1, 0.5, 5], np.float32), np.zeros(4), np.asarray([1, 3, 0, 9], np.uint64))
    assert cut.keeps(later).tolist() == [True, False, False, True]
    assert 1 < float_of_key(cut.threshold[0]) <= 2


def test_select_rows_equal_in_every_column_stay_together():
    keys = Keys((order_key(np.asarray([1, 1, 1, 0], np.float32)),))
    assert select([keys], 2).keeps(keys).tolist() == [True, True, True, False]


def test_cut_none_keeps_nothing():
    keys = Keys((order_key(np.asarray([np.inf], np.float32)),))
    assert not Cut(None).keeps(keys).any()
    assert select([keys], 0).threshold is None


def test_select_many_rows_take_few_passes(monkeypatch):
    rng = np.random.default_rng(0)
    n = 300_000
    uids = rng.integers(0, 2**63, n, dtype=np.uint64)
    keys = keys_of(rng.choice([0.1, 0.9], n).astype(np.float32), np.zeros(n), uids)
    passes = []
    counted = radix.histogram
    monkeypatch.setattr(radix, "histogram", lambda keys, request: passes.append(request) or counted(keys, request))
    kept = select([keys], 77_777).keeps(keys)
    assert kept.sum() == 77_777
    assert len(passes) <= 7  # two digits of the score, four of the second key, one of the uid


def test_histograms_add_up_and_hold_no_empty_bin():
    rng = np.random.default_rng(0)
    drawn = [np.bincount(rng.integers(0, 1 << 16, size), minlength=1 << 16) for size in (0, 3, 70_000)]
    summed = sum(map(radix.Histogram.of, drawn), radix.NO_ROWS)
    assert summed.dense().tolist() == np.sum(drawn, axis=0).tolist()
    assert (summed.counts > 0).all()
    assert len(radix.Histogram.of(drawn[1]).bins) <= 3
