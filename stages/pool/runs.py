"""Sorted runs: tables by uid that many tasks wrote apart, read back bucket by bucket.

A run's row groups end at uid prefixes, so that a bucket's task reads little besides its own rows. Runs are the pool
stage's private files: the artifact does not list them, and a stage that was interrupted finds them again.
"""

import io
import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.artifact import ArtifactWriter
from pipeline.storage import Storage, open_parquet
from stages.kernels.uid import bucket_of

_MAX_BITS = 20
_MAX_GROUP_ROWS = 1 << 20


def bits_for(rows: int, bucket_rows: int) -> int:
    """Bits of the uid prefix at which tables of `rows` rows are cut so that buckets have at most `bucket_rows`."""
    num_buckets = max(1, -(-rows // bucket_rows))
    return min(_MAX_BITS, (num_buckets - 1).bit_length())


def sort_by_uid(table: pa.Table, *further: str) -> pa.Table:
    """Rows by (uid_hi, uid_lo, further columns), ascending; equal rows keep their order."""
    names = (*further[::-1], "uid_lo", "uid_hi")
    return table.take(pa.array(np.lexsort([table[name].to_numpy() for name in names])))


def put_run(writer: ArtifactWriter, path: str, table: pa.Table, bits: int) -> None:
    """Put a table that is sorted by uid, a row group for each prefix of `bits` bits that has rows."""
    hi = table["uid_hi"].to_numpy()
    starts = np.flatnonzero(np.diff(bucket_of(hi, bits), prepend=-1))
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True) as parquet:
        for start, stop in itertools.pairwise([*starts.tolist(), table.num_rows]):
            parquet.write_table(table.slice(start, stop - start), row_group_size=_MAX_GROUP_ROWS)
    writer.put_bytes(path, sink.getvalue())


def read_bucket(storage: Storage, uris: Sequence[str], bucket: int, bits: int, schema: pa.Schema) -> pa.Table:
    """All rows of one uid bucket from all runs, run after run, in the columns and types of `schema`.

    Columns that a run does not have are null.
    """
    first, last = bucket_range(bucket, bits)
    tables = [schema.empty_table()]
    for uri in uris:
        with storage.open(uri) as source:
            parquet = open_parquet(source)
            groups = [group for group in range(parquet.num_row_groups) if _overlaps(parquet, group, first, last)]
            names = [name for name in schema.names if name in parquet.schema_arrow.names]
            table = parquet.read_row_groups(groups, columns=names) if groups else None
        if table is not None:
            hi = table["uid_hi"]
            tables.append(
                conformed(table.filter(pc.and_(pc.greater_equal(hi, first), pc.less_equal(hi, last))), schema)
            )
    return pa.concat_tables(tables).combine_chunks()


def bucket_range(bucket: int, bits: int) -> tuple[pa.Scalar, pa.Scalar]:
    """Lowest and highest uid_hi of a bucket."""
    width = 1 << (64 - bits)
    return pa.scalar(bucket * width, pa.uint64()), pa.scalar((bucket + 1) * width - 1, pa.uint64())


def _overlaps(parquet: pq.ParquetFile, group: int, first: pa.Scalar, last: pa.Scalar) -> bool:
    statistics = parquet.metadata.row_group(group).column(0).statistics  # uid_hi is every run's first column
    return bool(statistics.max >= first.as_py() and statistics.min <= last.as_py())


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` in its types; those that the table does not have are null."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
