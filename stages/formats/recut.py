"""Tables that are cut at other uid prefixes than what they are read for, such as those of a pool before it grew."""

import pyarrow as pa

from pipeline.artifact import Artifact
from stages.kernels.buckets import bucket_path
from stages.kernels.uid import bucket_of


def rows_of_bucket(artifact: Artifact, folder: str, bucket: int, bits: int, columns: list[str]) -> pa.Table:
    """Rows of one uid bucket of `bits` bits, of a table that may be cut otherwise."""
    own = int(artifact.summary["bucket_bits"])
    if own >= bits:
        first, stop = bucket << (own - bits), (bucket + 1) << (own - bits)
        tables = [artifact.read_table(bucket_path(number, folder), columns) for number in range(first, stop)]
        return pa.concat_tables(tables).combine_chunks()
    table = artifact.read_table(bucket_path(bucket >> (bits - own), folder), columns)
    return table.filter(pa.array(bucket_of(table["uid_hi"].to_numpy(), bits) == bucket)).combine_chunks()
