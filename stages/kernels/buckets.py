"""Names of the uid-prefix buckets, and how they are shared out among tasks."""

import itertools
from collections.abc import Sequence

from pipeline.stage import Size
from pipeline.traffic import Traffic, tables

UID_BYTES = 16
"""Of a row's uid, in memory and in a file: uids do not compress."""
TASK_BASE = 96 << 20
"""Bytes that any task holds beside its rows: buffers of the libraries, and files while they are read and made."""
TARGET_ROWS = 2_000_000
"""Rows that a bucket has at most by default (`pool.bucket_rows`)."""


def bucket_path(bucket: int, folder: str = "") -> str:
    """Path of a bucket's file inside its artifact."""
    name = f"bucket-{bucket:05d}.parquet"
    return f"{folder}/{name}" if folder else name


def bucket_groups(num_buckets: int, num_groups: int) -> list[tuple[int, ...]]:
    """All buckets in at most `num_groups` consecutive groups of nearly equal size: tasks whose results are added."""
    count = max(1, min(num_buckets, num_groups))
    edges = [group * num_buckets // count for group in range(count + 1)]
    return [tuple(range(start, end)) for start, end in itertools.pairwise(edges)]


def planned_buckets(rows: int) -> int:
    """Buckets that a plan reckons with for so many rows: a power of two."""
    wanted = max(1, -(-rows // TARGET_ROWS))
    return 1 << (wanted - 1).bit_length()


def buckets_of_size(size: Size) -> int:
    """Buckets of a table that is known, or those that a plan reckons with."""
    return size.buckets or planned_buckets(size.rows)


def planned_pass(size: Size, row_bytes: float, stretches: int = 1, *, at_end: bool = False) -> Traffic:
    """One pass over a bucketed table, of whose rows so many bytes are wanted; see `tables`."""
    share = min(1.0, row_bytes * size.rows / max(1, size.bytes))
    return tables(buckets_of_size(size), size.bytes, share, stretches, at_end=at_end)


def check_same_cut(bits: int, others: Sequence[tuple[str, int]]) -> None:
    """Raise ValueError unless all tables are cut at the same bits."""
    wrong = [f"{name} ({other} bits)" for name, other in others if other != bits]
    if wrong:
        raise ValueError(f"tables are cut at other uid prefixes than the pool's {bits} bits: {', '.join(wrong)}")
