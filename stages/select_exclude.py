"""Uids that must never be kept, from the files that people have them in."""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.errors import UserError
from pipeline.storage import Storage, absolute
from stages.formats.uid_set import UidSet, read_uid_set
from stages.kernels.uid import parse_hex

_NEXT = "give .npy in DataComp's format, Parquet with `uid` or `uid_hi, uid_lo`, or text with a uid a line"
_DIGITS = "1 to 32 hexadecimal digits"
_HALVES = ("uid_hi", "uid_lo")
_TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view())
_UID = re.compile(r"[0-9a-fA-F]{1,32}")
_SHOWN = 40


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
        return _from_table(_read_table(storage, uri), uri)
    if uri.endswith(".txt"):
        return _from_text(storage.read_bytes(uri), uri)
    name = uri.rpartition("/")[2]
    raise _refused("cannot read uids from a file of this kind", uri, ".npy, .parquet or .txt", name)


def _read_table(storage: Storage, uri: str) -> pa.Table:
    try:
        table = storage.read_table(uri)
        table.validate(full=True)  # text that is not UTF-8 would bring Polars down
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise _refused("a list of uids cannot be read", uri, "a whole Parquet file", str(error).strip()) from error
    return table


def _from_table(table: pa.Table, uri: str) -> UidSet:
    """Other types than the wanted ones are refused: a number's digits are another sample's uid."""
    names = table.column_names
    wanted = _HALVES if set(_HALVES) <= set(names) else ("uid",)
    if any(names.count(name) != 1 for name in wanted):
        raise _refused("no uids in this table", uri, "uid, or uid_hi and uid_lo, once", ", ".join(names) or "no column")
    if wanted == _HALVES:
        hi, lo = (_half(table[name], f"{uri}, column {name}") for name in _HALVES)
        return UidSet.of(hi, lo)
    kind = table.schema.field("uid").type
    if (kind.value_type if pa.types.is_dictionary(kind) else kind) not in _TEXT_TYPES:
        raise _refused("uids that are not text", f"{uri}, column uid", f"{_DIGITS} as string", kind)
    try:
        parsed = parse_hex(table["uid"].cast(pa.string()))
    except ValueError as error:
        raise _refused("not a list of uids", f"{uri}, column uid", _DIGITS, error) from error
    return UidSet.of(parsed.hi, parsed.lo)


def _half(column: pa.ChunkedArray, where: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    if column.type != pa.uint64():
        raise _refused("halves of uids of another type", where, "uint64", column.type)
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise _refused("a half of a uid is missing", f"{where}, row {row}", "uint64", "null")
    halves: np.ndarray[tuple[int, ...], np.dtype[np.uint64]] = column.to_numpy()
    return halves


def _from_text(data: bytes, uri: str) -> UidSet:
    lines = [line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").decode("ascii", "replace").split("\n")]
    uids = [line for line in lines if line]
    try:
        parsed = parse_hex(uids)
    except ValueError as error:
        number = next(number for number, line in enumerate(lines, 1) if line and not _UID.fullmatch(line))
        found = repr(lines[number - 1][:_SHOWN])
        raise _refused("not a list of uids", f"{uri}, line {number}", _DIGITS, found) from error
    return UidSet.of(parsed.hi, parsed.lo)


def _refused(what: str, where: str, expected: str, found: object) -> UserError:
    return UserError(what, where=where, expected=expected, found=found, next_step=_NEXT)
