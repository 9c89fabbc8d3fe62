"""Uids that must never be kept, from the files that people have them in."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.errors import UserError
from pipeline.storage import Storage, absolute
from stages.formats.uid_set import UidSet, read_uid_set
from stages.kernels.uid import parse_hex

_NEXT = "give .npy in DataComp's format, Parquet with `uid` or `uid_hi, uid_lo`, or text with a uid a line"


def read_excluded(storage: Storage, uris: Sequence[str]) -> UidSet:
    """The uids in all of these files, as one set.

    Raises:
        UserError: a file of another kind, or one that holds something else than uids.
    """
    sets = [_read(storage, absolute(uri)) for uri in uris]
    if not sets:
        return UidSet(np.empty(0, np.uint64), np.empty(0, np.uint64))
    return UidSet.of(np.concatenate([each.hi for each in sets]), np.concatenate([each.lo for each in sets]))


def _read(storage: Storage, uri: str) -> UidSet:
    if uri.endswith(".npy"):
        return read_uid_set(storage, [uri])
    if uri.endswith(".parquet"):
        return _from_table(storage.read_table(uri), uri)
    if uri.endswith(".txt"):
        lines = [line.strip() for line in storage.read_bytes(uri).decode("ascii", "replace").splitlines()]
        return _from_hex(pa.array([line for line in lines if line], pa.string()), uri)
    raise UserError("cannot read uids from a file of this kind", where=uri, next_step=_NEXT)


def _from_table(table: pa.Table, uri: str) -> UidSet:
    names = table.column_names
    if {"uid_hi", "uid_lo"} <= set(names):
        hi, lo = (table[name].to_numpy().astype(np.uint64) for name in ("uid_hi", "uid_lo"))
        return UidSet.of(hi, lo)
    if "uid" in names:
        return _from_hex(table["uid"], uri)
    raise UserError("no uids in this table", where=uri, expected="uid, or uid_hi and uid_lo", found=names)


def _from_hex(column: pa.Array | pa.ChunkedArray, uri: str) -> UidSet:
    try:
        parsed = parse_hex(column)
    except ValueError as error:
        raise UserError("not a list of uids", where=uri, found=error, next_step=_NEXT) from error
    return UidSet.of(parsed.hi, parsed.lo)
