"""The samples by place: a group of consecutive shards becomes one part, without duplicated uids."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import ArtifactWriter, FileEntry, parquet_bytes
from pipeline.schema import ORDER
from pipeline.storage import Storage

_ROW_GROUP = 1 << 16
"""Rows that a reader of a few samples has to read at least."""


@dataclass(frozen=True)
class OrderItem:
    """One group of shards."""

    part: int
    source: str
    """URI of the group's own table."""
    digest: str
    """Of the bytes of the group's shards."""
    duplicate_shard: NDArray[np.uint32]
    duplicate_offset: NDArray[np.uint64]


def put_order(item: OrderItem, *, storage: Storage, writer: ArtifactWriter) -> FileEntry:
    """Put `order/part-<p>.parquet`."""
    table = storage.read_table(item.source, list(ORDER.columns))
    if len(item.duplicate_shard):
        place = _places(table["shard"].to_numpy(), table["offset"].to_numpy())
        gone = np.isin(place, _places(item.duplicate_shard, item.duplicate_offset))
        table = table.filter(pa.array(~gone))
    data = parquet_bytes(table, row_group_rows=_ROW_GROUP)
    return writer.put_bytes(f"order/part-{item.part:05d}.parquet", data, rows=table.num_rows, inputs=item.digest)


def _places(shard: NDArray[np.uint32], offset: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One number a place: headers lie at multiples of 512 bytes, and a shard is smaller than 2 TiB."""
    return (shard.astype(np.uint64) << np.uint64(32)) | (offset >> np.uint64(9))
