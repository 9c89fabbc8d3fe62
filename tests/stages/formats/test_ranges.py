import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RunError
from pipeline.storage import Storage
from stages.formats.ranges import MAX_GAP, MAX_LOCAL_GAP, Range, coalesce, read_pieces

pieces = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), min_size=1, max_size=20)


def laid_out(shape: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    gaps, lengths = np.array(shape).T
    return np.cumsum(gaps + lengths) - lengths, lengths


@settings(deadline=None)
@given(pieces, st.integers(0, 20), st.integers(1, 120))
def test_ranges_cover_each_piece_once_within_their_bounds(shape: list, max_gap: int, max_range: int) -> None:
    offset, length = laid_out(shape)
    ranges = coalesce(offset, length, max_gap=max_gap, max_range=max_range)
    assert [piece for r in ranges for piece in range(r.first, r.stop)] == list(range(len(offset)))
    for found in ranges:
        mine = slice(found.first, found.stop)
        assert found.offset == offset[mine][0]
        assert found.offset + found.length == (offset + length)[mine].max()
        assert found.length <= max(max_range, int(length[mine].max()))
        assert (offset[mine][1:] - (offset + length)[mine][:-1]).max(initial=0) <= max_gap
    for before, after in itertools.pairwise(ranges):  # no two of them could have been one
        joined = after.offset + int(length[after.first]) - before.offset
        assert after.offset - before.offset - before.length > max_gap or joined > max_range


def test_neighbours_share_a_range() -> None:
    assert coalesce(np.array([0, 10, 30]), np.array([10, 10, 5])) == [Range(0, 35, 0, 3)]
    assert coalesce(np.array([0, 10, 30]), np.array([10, 10, 5]), max_gap=9) == [Range(0, 20, 0, 2), Range(30, 5, 2, 3)]


@settings(deadline=None, max_examples=30)
@given(pieces)
def test_pieces_are_the_bytes_at_their_places(tmp_path_factory: pytest.TempPathFactory, shape: list) -> None:
    offset, length = laid_out(shape)
    data = np.random.default_rng(0).bytes(int(offset[-1] + length[-1]))
    path = tmp_path_factory.mktemp("pieces") / "file"
    path.write_bytes(data)
    read = [bytes(piece) for piece in read_pieces(Storage(), str(path), offset.astype(np.uint64), length)]
    assert read == [data[begin : begin + size] for begin, size in zip(offset, length, strict=True)]


def test_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    with pytest.raises(RunError, match="shorter than its index says"):
        list(read_pieces(Storage(), str(path), np.array([0, 3]), np.array([2, 3])))


class _Reads(Storage):
    """Answers every range with zeros and remembers it."""

    def read_ranges(self, uri: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        for offset, length in ranges:
            asked.append((uri, offset, length))
            yield bytes(length)


asked: list[tuple[str, int, int]] = []


@pytest.mark.parametrize(
    ("uri", "gap", "num_reads"),
    [
        ("/pool/0.tar", MAX_LOCAL_GAP, 1),
        ("/pool/0.tar", MAX_LOCAL_GAP + 1, 2),
        ("s3://pool/0.tar", MAX_GAP, 1),
        ("s3://pool/0.tar", MAX_GAP + 1, 2),
    ],
)
def test_gaps_are_read_where_that_is_cheaper_than_asking_anew(uri: str, gap: int, num_reads: int) -> None:
    asked.clear()
    pieces = list(read_pieces(_Reads(), uri, np.array([0, 10 + gap]), np.array([10, 10])))
    assert [len(piece) for piece in pieces] == [10, 10]
    assert len(asked) == num_reads
    assert sum(length for _, _, length in asked) == (20 if num_reads == 2 else 20 + gap)
