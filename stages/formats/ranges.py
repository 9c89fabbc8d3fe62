"""Many small pieces of a file by few large reads."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.storage import Storage, is_s3

MAX_GAP = 1 << 20
"""Bytes between two wanted pieces of an object that are cheaper to read than to ask for anew."""
MAX_LOCAL_GAP = 16 << 10
"""The same for a file."""
MAX_RANGE = 64 << 20
"""Bytes of one read at most, unless one piece is larger."""


class Range(NamedTuple):
    """One read, and which pieces it holds."""

    offset: int
    length: int
    first: int
    """First piece."""
    stop: int
    """Behind the last piece."""


def coalesce(
    offset: NDArray[np.integer],
    length: NDArray[np.integer],
    *,
    max_gap: int = MAX_GAP,
    max_range: int = MAX_RANGE,
) -> list[Range]:
    """The fewest reads that hold all pieces without long gaps or reads that are too large.

    Args:
        offset: [n] ascending.
        length: [n].
        max_gap: bytes that may be read in vain between two pieces.
        max_range: bytes of one read.
    """
    ranges: list[Range] = []
    for piece, (begin, size) in enumerate(zip(offset.tolist(), length.tolist(), strict=True)):
        end = begin + size
        if ranges:
            last = ranges[-1]
            reached = last.offset + last.length
            if begin - reached <= max_gap and max(end, reached) - last.offset <= max_range:
                ranges[-1] = last._replace(length=max(end, reached) - last.offset, stop=piece + 1)
                continue
        ranges.append(Range(begin, size, piece, piece + 1))
    return ranges


def read_pieces(
    storage: Storage, uri: str, offset: NDArray[np.integer], length: NDArray[np.integer]
) -> Iterator[memoryview]:
    """Each piece's bytes, in order; neighbours share one read, and little else than pieces is read.

    Args:
        storage: where `uri` can be read.
        uri: the file.
        offset: [n] ascending.
        length: [n].

    Raises:
        RunError: the file ends before a piece does.
    """
    parts = coalesce(offset, length, max_gap=MAX_GAP if is_s3(uri) else MAX_LOCAL_GAP)
    begins, sizes = offset.tolist(), length.tolist()
    for part, data in zip(parts, storage.read_ranges(uri, [part[:2] for part in parts]), strict=True):
        view = memoryview(data)
        for piece in range(part.first, part.stop):
            begin = begins[piece] - part.offset
            yield view[begin : begin + sizes[piece]]
