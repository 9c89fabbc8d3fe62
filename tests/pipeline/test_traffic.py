"""Requests of the store, from files and bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifact import WHOLE_BYTES
from pipeline.traffic import READ_AHEAD, Traffic, listing, sequential, tables, writes


def test_traffic_adds_up_and_multiplies() -> None:
    one = Traffic(10, 2, 1)
    assert one + one == one.times(2) == Traffic(20, 4, 2)
    assert one.times(0) == Traffic()


def test_files_are_put_once_and_listed_by_the_thousand() -> None:
    assert writes(7) == Traffic(puts=7)
    assert [listing(number).puts for number in (0, 1, 1000, 1001, 1_280_000)] == [1, 1, 1, 2, 1280]


def test_sequential_reading_asks_for_the_length_and_reads_ahead() -> None:
    assert sequential(3, 3 * READ_AHEAD) == Traffic(3 * READ_AHEAD, 6, 0)
    assert sequential(1, READ_AHEAD + 1).gets == 3


def test_small_tables_are_read_whole_by_one_request() -> None:
    assert tables(5, 5 * WHOLE_BYTES, share=0.1) == Traffic(5 * WHOLE_BYTES, 5)


@given(st.integers(1, 9000), st.integers(WHOLE_BYTES + 1, 1 << 32), st.floats(0, 1), st.integers(1, 3))
def test_columns_of_large_tables_cost_no_more_bytes_than_the_whole(
    files: int, each: int, share: float, stretches: int
) -> None:
    part, whole = tables(files, files * each, share, stretches), tables(files, files * each)
    assert part.read_bytes <= whole.read_bytes == files * each
    assert part.read_bytes >= int(files * each * share)
    assert part.gets >= files * (3 + stretches)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_twice_the_files_are_twice_the_traffic(share: float) -> None:
    size = 50 << 20
    assert tables(20, 20 * size, share) == tables(10, 10 * size, share).times(2)


def test_nothing_is_read_ahead_behind_the_end_of_a_table() -> None:
    size = 100 << 20
    middle, end = tables(3, 3 * size, 0.04), tables(3, 3 * size, 0.04, at_end=True)
    assert (middle.read_bytes, end.read_bytes) == (3 * READ_AHEAD, 3 * (4 << 20))
    assert middle.gets == end.gets
    both = tables(1, size, 0.08, stretches=2, at_end=True)
    assert both.read_bytes == READ_AHEAD + (4 << 20)
