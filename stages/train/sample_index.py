"""Where the bytes of each sample lie, by shard and row: the pool's `order/` table, read shard by shard."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.artifact import Artifact, FileEntry, entries_rows
from pipeline.errors import RunError
from pipeline.schema import ORDER
from stages.formats.uid_set import UidSet

ORDER_SCHEMA = pa.schema(list(ORDER.columns.items()))
_CACHED_SHARDS = 64
_CACHED_GROUPS = 2


class SampleRows(NamedTuple):
    """Samples of one shard, by offset."""

    uid_hi: NDArray[np.uint64]
    uid_lo: NDArray[np.uint64]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]

    def take(self, rows: NDArray[np.int64]) -> "SampleRows":
        """These rows, in this order."""
        return SampleRows(*(column[rows] for column in self))


class SampleIndex:
    """The usable samples of a pool by (shard, row), or those of them that are in a set.

    Memory: the shards' counts, a few row groups of the order table, and the rows of the last shards asked for.
    """

    def __init__(self, pool: Artifact, only: UidSet | None = None) -> None:
        """Open the pool's list of shards; with `only`, go once through all uids to count.

        Raises:
            RunError: the order table does not hold what the list of shards says.
        """
        shards = pool.read_table("shards.parquet", ["shard", "path", "usable"])
        self.paths: list[str] = shards["path"].to_pylist()
        self._numbers = shards["shard"].to_numpy()
        self._usable: NDArray[np.int64] = shards["usable"].to_numpy().astype(np.int64)
        self._ends = np.cumsum(self._usable)
        self._only = only
        self._order = _OrderTable(pool)
        if self._order.num_rows != int(self._usable.sum()):
            raise RunError(
                "the pool's order table is not as long as its shards",
                where=pool.root,
                expected=f"{int(self._usable.sum())} rows",
                found=self._order.num_rows,
            )
        self._shards: OrderedDict[int, SampleRows] = OrderedDict()

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """[shards] samples of each shard (in the set, if there is one)."""
        if self._only is None:
            return self._usable
        counts = np.zeros(len(self._usable), np.int64)
        for first, table in self._order.pieces():
            inside = self._only.contains(table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy())
            rows = first + np.flatnonzero(inside)
            counts += np.bincount(np.searchsorted(self._ends, rows, side="right"), minlength=len(counts))
        return counts

    def rows(self, shard: int) -> SampleRows:
        """All samples of the `shard`-th shard (in the set, if there is one), by offset."""
        if shard not in self._shards:
            self._shards[shard] = self._read(shard)
            if len(self._shards) > _CACHED_SHARDS:
                self._shards.popitem(last=False)
        self._shards.move_to_end(shard)
        return self._shards[shard]

    def _read(self, shard: int) -> SampleRows:
        stop = int(self._ends[shard])
        table = self._order.slice(stop - int(self._usable[shard]), stop)
        if (table["shard"].to_numpy() != self._numbers[shard]).any():
            raise RunError(
                "the pool's order table is not by shard",
                where=self.paths[shard],
                expected=f"{self._usable[shard]} rows of shard {self._numbers[shard]}",
                next_step="the pool artifact is damaged: remove it, so that it is made anew",
            )
        rows = SampleRows(*(table[name].to_numpy() for name in ("uid_hi", "uid_lo", "offset", "length")))
        if self._only is None:
            return rows
        return rows.take(np.flatnonzero(self._only.contains(rows.uid_hi, rows.uid_lo)))


class _OrderTable:
    """`order/part-*.parquet` as one long table, read by row groups; the last ones are kept."""

    def __init__(self, pool: Artifact) -> None:
        self._pool = pool
        self._parts: Sequence[FileEntry] = pool.files("order/", ".parquet")
        self._part_ends = np.cumsum([part.rows for part in self._parts], dtype=np.int64)
        self._group_ends: dict[int, NDArray[np.int64]] = {}
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self.num_rows = entries_rows(self._parts)

    def slice(self, start: int, stop: int) -> pa.Table:
        """Rows start..stop of the whole table."""
        tables = [ORDER_SCHEMA.empty_table()]
        while start < stop:
            part = int(np.searchsorted(self._part_ends, start, side="right"))
            base = int(self._part_ends[part]) - self._parts[part].rows
            ends = self._ends_of(part)
            group = int(np.searchsorted(ends, start - base, side="right"))
            group_base = base + (int(ends[group - 1]) if group else 0)
            until = min(stop, base + int(ends[group]))
            tables.append(self._group(part, group).slice(start - group_base, until - start))
            start = until
        return pa.concat_tables(tables).combine_chunks()

    def pieces(self) -> Iterator[tuple[int, pa.Table]]:
        """Consecutive row groups, each with the number of its first row."""
        first = 0
        for part in range(len(self._parts)):
            for group in range(len(self._ends_of(part))):
                table = self._group(part, group)
                yield first, table
                first += table.num_rows

    def _ends_of(self, part: int) -> NDArray[np.int64]:
        if part not in self._group_ends:
            with self._open(part) as file:
                metadata = file.metadata
                rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            self._group_ends[part] = np.cumsum(rows, dtype=np.int64)
        return self._group_ends[part]

    def _group(self, part: int, group: int) -> pa.Table:
        if (part, group) not in self._groups:
            with self._open(part) as file:
                table = file.read_row_group(group, columns=ORDER_SCHEMA.names)
            self._groups[part, group] = table
            if len(self._groups) > _CACHED_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end((part, group))
        return self._groups[part, group]

    def _open(self, part: int) -> AbstractContextManager[pq.ParquetFile]:
        return self._pool.open_table(self._parts[part].path)
