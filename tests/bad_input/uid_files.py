"""Subset files to train on, and lists of uids to exclude."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy

from stages.kernels.uid import to_hex, to_records
from tests.bad_input.case import Case, Outcome
from tests.bad_input.tables import not_utf8, parquet
from tests.bad_input.through import NUM_SAMPLES, through_select, through_training
from tests.bad_input.weights import harmful
from tests.stages.train.tiny_pool import uid_of
from tests.stages.uid_tables import random_uids

_RECORDS = np.sort(np.array([uid_of(n) for n in range(NUM_SAMPLES)], "u8,u8"))
_EXCLUDED = to_records(*random_uids(NUM_SAMPLES))
_HEX = to_hex(*random_uids(NUM_SAMPLES)).to_pylist()
_HUGE = 1 << 60


def saved(array: np.ndarray, *, pickled: bool = False) -> bytes:
    """A .npy file."""
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=pickled)
    return sink.getvalue()


def archived(array: np.ndarray) -> bytes:
    """A .npz file."""
    sink = io.BytesIO()
    np.savez(sink, array)
    return sink.getvalue()


def that_says(num_records: int, dtype: str = "[('f0', '<u8'), ('f1', '<u8')]") -> bytes:
    """A header of any length, and one record."""
    sink = io.BytesIO()
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': ({num_records},), }}"
    head = text.encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    sink.write(npy.magic(1, 0) + len(head).to_bytes(2, "little") + head + bytes(16))
    return sink.getvalue()


def _objects(root: Path) -> bytes:
    """An array of objects whose unpickling makes a file."""
    array = np.empty(1, object)
    array[0] = harmful(root)
    return saved(array, pickled=True)


_Build = Callable[[Path], bytes]


def _refused(records: np.ndarray) -> list[tuple[str, _Build, tuple[str, ...]]]:
    """What neither is a subset file nor a list in its format."""
    whole = saved(records)
    return [
        ("pickled array of objects", _objects, ("object",)),
        ("pickle with code", lambda root: _pickle(root), ()),
        (".npz named .npy", lambda root: archived(records), ("npz",)),
        ("empty file", lambda root: b"", ("empty",)),
        ("magic alone", lambda root: whole[:6], ()),
        ("cut in its header", lambda root: whole[:50], ()),
        ("text whose length fits records", lambda root: b"fedcba9876543210\n" * 16, ()),
        ("cut in a record", lambda root: whole[:-5], ()),
        ("cut between records", lambda root: whole[:-16], ()),
        ("bytes behind the records", lambda root: whole + bytes(16), ()),
        ("header of 2^60 records", lambda root: that_says(_HUGE), ()),
        ("header of 2^32 records", lambda root: that_says(1 << 32), ()),
        ("header of -1 records", lambda root: that_says(-1), ()),
        ("header that calls code", lambda root: that_says(1, "__import__('os').getcwd()"), ()),
        ("version 9 of the format", lambda root: whole[:6] + b"\x09" + whole[7:], ()),
        ("one dimension of u8", lambda root: saved(records["f0"].copy()), ("uint64",)),
        ("two columns of u8", lambda root: saved(np.stack([records["f0"], records["f1"]], 1)), ("uint64",)),
        ("signed integers", lambda root: saved(records.astype("i8,i8")), ("i8",)),
        ("floating point", lambda root: saved(records["f0"].astype(np.float64)), ("float64",)),
        ("big-endian", lambda root: saved(records.astype(">u8,>u8")), (">u8",)),
        ("uids as text", lambda root: saved(np.array(_HEX)), ("<U32",)),
        ("a matrix of records", lambda root: saved(records.reshape(2, -1)), ("(2, 4)",)),
        ("no dimension", lambda root: saved(records[0].reshape(())), ("()",)),
    ]


def _pickle(root: Path) -> bytes:
    import pickle

    return pickle.dumps(harmful(root))


def _subset(name: str, outcome: Outcome, *wanted: str, build: _Build, samples: int = NUM_SAMPLES) -> Case:
    return Case(name, "subset file", outcome, wanted, partial(through_training, build, samples))


def _list(
    name: str, outcome: Outcome, *wanted: str, build: _Build, file: str = "ids.npy", excluded: int = NUM_SAMPLES
) -> Case:
    return Case(name, "exclude list", outcome, wanted, partial(through_select, file, build, excluded))


def _text(name: str, outcome: Outcome, *wanted: str, data: bytes, excluded: int = NUM_SAMPLES) -> Case:
    return _list(f"text: {name}", outcome, *wanted, build=lambda root: data, file="ids.txt", excluded=excluded)


def _table(name: str, outcome: Outcome, *wanted: str, data: bytes, excluded: int = NUM_SAMPLES) -> Case:
    return _list(f"Parquet: {name}", outcome, *wanted, build=lambda root: data, file="ids.parquet", excluded=excluded)


_LINES = "\n".join(_HEX).encode()
_HI, _LO = random_uids(NUM_SAMPLES)
_R, _A = "refused", "accepted"

CASES: list[Case] = [
    *(_subset(name, _R, "trusted.npy", *wanted, build=build) for name, build, wanted in _refused(_RECORDS)),
    _subset("zero records", _R, "trusted.npy", build=lambda root: saved(_RECORDS[:0])),
    _subset("headerless, not a multiple of 16 bytes", _R, "trusted.npy", build=lambda root: _RECORDS.tobytes()[:-3]),
    _subset("headerless records", _A, build=lambda root: _RECORDS.tobytes()),
    _subset("unsorted", _A, build=lambda root: saved(_RECORDS[::-1].copy())),
    _subset("a uid twice", _A, build=lambda root: saved(np.repeat(_RECORDS, 2))),
    _subset(
        "some uids of another pool",
        _A,
        samples=4,
        build=lambda root: saved(np.sort(np.concatenate([_RECORDS[:4], _EXCLUDED]))),
    ),
    *(_list(name, _R, "ids.npy", *wanted, build=build) for name, build, wanted in _refused(_EXCLUDED)),
    _list("unsorted", _A, build=lambda root: saved(_EXCLUDED[::-1].copy())),
    _list("zero records", _A, build=lambda root: saved(_EXCLUDED[:0]), excluded=0),
    _list("headerless records", _A, build=lambda root: _EXCLUDED.tobytes()),
    _list("ending that nobody knows", _R, "ids.csv", build=lambda root: _LINES, file="ids.csv"),
    _text("short and upper-case uids, Windows line ends", _A, data=_LINES.upper().replace(b"\n", b"\r\n")),
    _text("empty lines and spaces around", _A, data=b"\n \n  " + _LINES.replace(b"\n", b"  \n\n\t") + b"\n\n"),
    _text("byte order mark", _A, data=b"\xef\xbb\xbf" + _LINES),
    _text("nothing", _A, data=b"", excluded=0),
    _text("a word among uids", _R, "ids.txt", "line 3", "two", data=b"1\n\ntwo\n3"),
    _text("uid of 33 digits", _R, "ids.txt", "line 1", data=b"0" * 33),
    _text("not UTF-8", _R, "ids.txt", "line 2", data=b"12\n\xff\xfe\n"),
    _text("NUL bytes", _R, "ids.txt", "line 1", data=bytes(64)),
    _text("a .npy named .txt", _R, "ids.txt", "line 1", data=saved(_EXCLUDED)),
    _table("uid", _A, data=parquet({"uid": _HEX})),
    _table("halves", _A, data=parquet({"uid_hi": _HI, "uid_lo": _LO})),
    _table("no uid", _R, "ids.parquet", "key", data=parquet({"key": _HEX})),
    _table("not Parquet", _R, "ids.parquet", data=b"nothing of the sort"),
    _table("empty file", _R, "ids.parquet", data=b""),
    _table("cut", _R, "ids.parquet", data=parquet({"uid": _HEX})[:-40]),
    _table("uid as integer", _R, "ids.parquet", "int64", data=parquet({"uid": [12, 34]})),
    _table("uid that is not UTF-8", _R, "ids.parquet", "UTF8", data=parquet({"uid": not_utf8(_HEX)})),
    _table("uid as binary", _R, "ids.parquet", "binary", data=parquet({"uid": [b"12", b"34"]})),
    _table("uid is null in a row", _R, "ids.parquet", "row 1", data=parquet({"uid": [_HEX[0], None]})),
    _table(
        "half is null in a row",
        _R,
        "ids.parquet",
        "uid_lo",
        data=parquet({"uid_hi": _HI[:2], "uid_lo": pa.array([7, None], pa.uint64())}),
    ),
    _table(
        "halves as signed integers", _R, "ids.parquet", "int64", data=parquet({"uid_hi": [1, -2], "uid_lo": [1, 2]})
    ),
    _table(
        "halves as floating point",
        _R,
        "ids.parquet",
        "double",
        data=parquet({"uid_hi": [1.0, 2.5], "uid_lo": [1.0, 2.0]}),
    ),
    _table(
        "uid twice as a column",
        _R,
        "ids.parquet",
        "uid",
        data=parquet(pa.Table.from_arrays([pa.array(_HEX)] * 2, ["uid", "uid"])),
    ),
]
