import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.kernels.uid import (
    UID_DTYPE,
    bucket_of,
    hash_u64,
    hash_uniform,
    is_sorted,
    parse_hex,
    positions,
    run_starts,
    to_hex,
    to_records,
    uid_visit_order,
)

HEX = st.text("0123456789abcdefABCDEF", min_size=1, max_size=32)
WHOLE = st.integers(0, 2**128 - 1)


def halves(values):
    return (
        np.asarray([value >> 64 for value in values], np.uint64),
        np.asarray([value % 2**64 for value in values], np.uint64),
    )


@given(st.lists(HEX, max_size=30))
def test_parse_hex_equals_python_integers(texts):
    parsed = parse_hex(texts)
    hi, lo = halves([int(text, 16) for text in texts])
    assert np.array_equal(parsed.hi, hi)
    assert np.array_equal(parsed.lo, lo)
    assert parsed.num_normalised == sum(text != text.lower().zfill(32) for text in texts)


@given(st.lists(WHOLE, max_size=30))
def test_to_hex_then_parse_hex_is_the_identity(values):
    hi, lo = halves(values)
    text = to_hex(hi, lo)
    assert text.to_pylist() == [f"{value:032x}" for value in values]
    parsed = parse_hex(text)
    assert np.array_equal(parsed.hi, hi)
    assert np.array_equal(parsed.lo, lo)
    assert parsed.num_normalised == 0


@pytest.mark.parametrize("kind", [pa.array, pa.chunked_array, list])
def test_parse_hex_takes_arrow_and_lists(kind):
    texts = [["1", "a"], ["ff"]] if kind is pa.chunked_array else ["1", "a", "ff"]
    assert parse_hex(kind(texts)).lo.tolist() == [1, 10, 255]


@pytest.mark.parametrize(
    ("bad", "row"),
    [
        (["1", ""], 1),
        (["xyz"], 0),
        (["0" * 33], 0),
        (["1", "2", None, "z"], 2),
        ([" 1"], 0),
        (["1\n"], 0),
        (["0x1"], 0),
    ],
)
def test_parse_hex_invalid_uid_is_named_with_its_row(bad, row):
    with pytest.raises(ValueError, match=f"row {row}"):
        parse_hex(pa.array(bad, pa.string()))


@given(WHOLE, st.integers(0, 16))
def test_bucket_of_is_the_prefix(value, bits):
    hi, _ = halves([value])
    assert bucket_of(hi, bits).tolist() == [value >> (128 - bits)]


def test_to_records_sorts_as_integers():
    values = sorted([0, 1, 2**64 - 1, 2**64, 2**127 + 5])
    records = to_records(*halves(values))
    assert records.dtype == UID_DTYPE
    assert np.array_equal(np.sort(records[::-1]), records)


@given(st.lists(WHOLE, max_size=20))
def test_is_sorted_agrees_with_python(values):
    assert is_sorted(*halves(values)) == (values == sorted(values))


# Few distinct halves, so that runs of equal high halves and near misses are common.
SMALL = st.builds(lambda hi, lo: hi * 2**64 + lo, st.integers(0, 3), st.integers(0, 40))


@given(st.sets(SMALL, max_size=60), st.lists(SMALL, max_size=40))
def test_positions_equal_a_dictionary_lookup(base, wanted):
    ordered = sorted(base)
    lookup = {value: row for row, value in enumerate(ordered)}
    found = positions(*halves(ordered), *halves(wanted))
    assert found.tolist() == [lookup.get(value, -1) for value in wanted]


@given(st.lists(SMALL, max_size=40))
def test_run_starts_are_first_occurrences(values):
    values = sorted(values)
    assert run_starts(*halves(values)).tolist() == [i for i, v in enumerate(values) if i == 0 or values[i - 1] != v]


def test_hash_is_keyed_uniform_and_independent_of_the_halves_bits():
    n = 20_000
    for hi, lo in ((np.arange(n), np.zeros(n)), (np.zeros(n), np.arange(n)), (np.arange(n) * 2**40, np.arange(n))):
        drawn = hash_uniform(hi.astype(np.uint64), lo.astype(np.uint64), seed=3)
        assert 0 <= drawn.min() < drawn.max() < 1
        counts = np.bincount((drawn * 20).astype(int), minlength=20)
        assert ((counts - n / 20) ** 2 / (n / 20)).sum() < 60  # chi-squared with 19 degrees of freedom
    other = hash_uniform(np.arange(n, dtype=np.uint64), np.zeros(n, np.uint64), seed=4)
    first = hash_uniform(np.arange(n, dtype=np.uint64), np.zeros(n, np.uint64), seed=3)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.03


def test_hash_golden():
    values = hash_u64(*halves([0, 1, 2**64, 2**128 - 1]), seed=0)
    assert hashlib.sha256(values.astype("<u8").tobytes()).hexdigest()[:16] == "fb942200a647668f"


NEAR = st.tuples(
    st.sampled_from([0, 1, 2, 3, 5, 1 << 63, (1 << 63) + 1, (1 << 64) - 1]), st.integers(0, 2), st.integers(0, 9)
)


@given(st.lists(NEAR, max_size=40))
def test_uid_visit_order_equals_sorting_all_keys_for_near_uids_and_repeated_rows(rows):
    hi, lo, visit = (np.asarray([row[place] for row in rows], np.uint64) for place in range(3))
    order = uid_visit_order(hi, lo, visit.astype(np.uint16))
    assert sorted(order.tolist()) == list(range(len(rows)))
    assert [rows[row] for row in order] == sorted(rows)


def test_uid_visit_order_of_many_rows_equals_sorting_all_keys():
    rng = np.random.default_rng(0)
    sample = rng.permutation(np.repeat(np.arange(5000), 3))
    hi, lo = rng.integers(0, 2**64, (2, 5000), np.uint64)[:, sample]
    visit = np.zeros(15_000, np.uint16)
    for number in range(5000):
        visit[sample == number] = [2, 0, 1]
    assert np.array_equal(uid_visit_order(hi, lo, visit), np.lexsort((visit, lo, hi)))
