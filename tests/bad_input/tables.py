"""Metadata of the pool and score tables: Parquet files of all kinds."""

import io
from collections.abc import Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.bad_input.case import Case, Outcome
from tests.bad_input.pools import case
from tests.bad_input.through import NUM_SAMPLES, Pool, through_table
from tests.stages.pool.pools import pair, shard_bytes, uid_of
from tests.stages.train.tiny_pool import uid_of as halves_of

_POOL = (1, 2, 3)
_MINE = [uid_of(n) for n in _POOL]
_THEIRS = ["{:016x}{:016x}".format(*halves_of(n)) for n in range(NUM_SAMPLES)]
_RISING = [n / 8 for n in range(NUM_SAMPLES)]


def parquet(columns: Mapping[str, Any] | pa.Table) -> bytes:
    """A Parquet file."""
    sink = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(dict(columns)), sink)
    return sink.getvalue()


def not_utf8(column: list[str]) -> pa.Array:
    """Text whose last row is none, as writers leave it that do not look."""
    return pa.StringArray.from_buffers(
        len(column), *pa.array([*(text.encode() for text in column[:-1]), b"\xff\xfe\xc3"], pa.binary()).buffers()[1:]
    )


def _damaged(data: bytes) -> bytes:
    """The footer is whole, the pages are not."""
    return data[:4] + bytes(byte ^ 0x5A for byte in data[4:200]) + data[200:]


def _bad_footer(data: bytes) -> bytes:
    """The length of the footer is whole, the footer is not."""
    return data[:-60] + bytes(40) + data[-20:]


def _long_footer(data: bytes) -> bytes:
    return data[:-8] + b"\xff\xff\xff\x7f" + data[-4:]


_FILES: list[tuple[str, Any]] = [
    ("not Parquet", lambda data: b"uid,score\n1,2\n" * 9),
    ("empty file", lambda data: b""),
    ("three bytes", lambda data: b"PAR"),
    ("magic alone", lambda data: b"PAR1PAR1"),
    ("cut in the middle", lambda data: data[: len(data) // 2]),
    ("without its last byte", lambda data: data[:-1]),
    ("without its first half", lambda data: data[len(data) // 2 :]),
    ("damaged footer", _bad_footer),
    ("footer longer than the file", _long_footer),
    ("damaged pages", _damaged),
]


def metadata(name: str, outcome: Outcome, *wanted: str, data: Any, second: bytes | None = None) -> Case:
    """A pool with this metadata; `data` are columns, or bytes."""
    first = data if isinstance(data, bytes) else parquet(data)
    files = {"0.parquet": first} | ({} if second is None else {"1.parquet": second})
    return case(
        name, "metadata", outcome, *wanted, build=lambda: Pool(shard_bytes([pair(n) for n in _POOL]), _POOL, files)
    )


def table(name: str, outcome: Outcome, *wanted: str, data: Any, scores: int = NUM_SAMPLES) -> Case:
    """A score table; `scores` samples get one from it."""
    content = data if isinstance(data, bytes) else parquet(data)
    run = partial(through_table, lambda root: {"0.parquet": content}, scores)
    return Case(name, "score table", outcome, wanted, run)


_UIDS = pa.array(_MINE)
_WHOLE = parquet({"uid": _UIDS, "clip": [0.1, 0.2, 0.3]})
_SCORES = parquet({"uid": _THEIRS, "score": _RISING})
_FILE = "0.parquet"
_R, _A = "refused", "accepted"

CASES: list[Case] = [
    *(metadata(name, _R, _FILE, data=damage(_WHOLE)) for name, damage in _FILES),
    metadata("second file is not Parquet", _R, "1.parquet", data=_WHOLE, second=b"nothing"),
    metadata("no uid", _R, _FILE, "column `uid`", "key, clip", data={"key": _UIDS, "clip": [1.0, 2.0, 3.0]}),
    metadata("no columns", _R, _FILE, data=pa.table({})),
    metadata("uid as integer", _R, _FILE, "int64", data={"uid": [1, 2, 3]}),
    metadata("uid as binary", _R, _FILE, "binary", data={"uid": pa.array([b"1", b"2", b"3"])}),
    metadata("uid as list", _R, _FILE, "list", data={"uid": [["1"], ["2"], ["3"]]}),
    metadata("uid is null in a row", _R, _FILE, "row 1", data={"uid": [_MINE[0], None, _MINE[2]]}),
    metadata("uid is no hexadecimal number", _R, _FILE, "row 2", "xyz", data={"uid": [*_MINE[:2], "xyz"]}),
    metadata("uid that is not UTF-8", _R, _FILE, "UTF8", data={"uid": not_utf8(_MINE)}),
    metadata("caption that is not UTF-8", _R, _FILE, "UTF8", data={"uid": _MINE, "text": not_utf8(_MINE)}),
    metadata("uid of 33 digits", _R, _FILE, "row 0", data={"uid": ["0" * 33, *_MINE[1:]]}),
    metadata("uid twice in a file", _R, _FILE, _MINE[0], data={"uid": [*_MINE, _MINE[0]]}),
    metadata(
        "uid in two files",
        _R,
        _FILE,
        "1.parquet",
        _MINE[2],
        data=_WHOLE,
        second=parquet({"uid": [_MINE[2]], "clip": [0.5]}),
    ),
    metadata(
        "columns of one name",
        _R,
        _FILE,
        "clip",
        data=pa.Table.from_arrays([_UIDS, _UIDS, _UIDS], names=["uid", "clip", "clip"]),
    ),
    metadata(
        "types that differ from file to file",
        _R,
        "1.parquet",
        "clip",
        data=_WHOLE,
        second=parquet({"uid": ["9"], "clip": ["high"]}),
    ),
    metadata(
        "short and upper-case uids",
        _A,
        "metadata_uid",
        data={"uid": [_MINE[0].upper(), _MINE[1], "7"], "clip": [1.0, 2.0, 3.0]},
    ),
    metadata("uid as dictionary", _A, data={"uid": _UIDS.dictionary_encode()}),
    metadata("uid as large text", _A, data={"uid": _UIDS.cast(pa.large_string())}),
    metadata("NaN, infinite and null scores", _A, data={"uid": _MINE, "clip": [float("nan"), float("inf"), None]}),
    metadata("zero rows", _A, data={"uid": pa.array([], pa.string())}),
    metadata("a column that is null throughout", _A, data={"uid": _MINE, "empty": pa.nulls(3)}),
    metadata("columns named as the index's own", _A, data={"uid": _MINE, "shard": [1, 2, 3], "uid_hi": [1, 2, 3]}),
    metadata("nested columns", _A, data={"uid": _MINE, "face_bboxes": [[[0.0, 0.1]], [], None]}),
    *(table(name, _R, _FILE, data=damage(_SCORES)) for name, damage in _FILES),
    table("no uid", _R, _FILE, "uid", "key, score", data={"key": _THEIRS, "score": _RISING}),
    table("no score", _R, _FILE, "score", "uid, clip", data={"uid": _THEIRS, "clip": _RISING}),
    table("score as text", _R, _FILE, "score", "string", data={"uid": _THEIRS, "score": [str(v) for v in _RISING]}),
    table("score as truth value", _R, _FILE, "bool", data={"uid": _THEIRS, "score": [True] * NUM_SAMPLES}),
    table("score as list", _R, _FILE, "list", data={"uid": _THEIRS, "score": [[v] for v in _RISING]}),
    table(
        "score as date",
        _R,
        _FILE,
        "score",
        data={"uid": _THEIRS, "score": pa.array(range(NUM_SAMPLES), pa.timestamp("s"))},
    ),
    table(
        "columns of one name",
        _R,
        _FILE,
        "score",
        data=pa.Table.from_arrays([pa.array(_THEIRS), pa.array(_RISING), pa.array(_RISING)], ["uid", "score", "score"]),
    ),
    table("uid as integer", _R, _FILE, "int64", data={"uid": list(range(NUM_SAMPLES)), "score": _RISING}),
    table("uid as binary", _R, _FILE, "binary", data={"uid": [u.encode() for u in _THEIRS], "score": _RISING}),
    table(
        "uid is null in a row",
        _R,
        "0.parquet, row 3",
        data={"uid": [*_THEIRS[:3], None, *_THEIRS[4:]], "score": _RISING},
    ),
    table(
        "uid is no hexadecimal number",
        _R,
        "0.parquet, row 0",
        "'a-b'",
        data={"uid": ["a-b", *_THEIRS[1:]], "score": _RISING},
    ),
    table(
        "uid with a line end", _R, "0.parquet, row 0", data={"uid": [_THEIRS[0] + "\n", *_THEIRS[1:]], "score": _RISING}
    ),
    table(
        "uid twice", _R, "0.parquet, row 8", _THEIRS[1], data={"uid": [*_THEIRS, _THEIRS[1]], "score": [*_RISING, 1.0]}
    ),
    table(
        "score is null in a row", _R, "0.parquet, row 7", "null", data={"uid": _THEIRS, "score": [*_RISING[:7], None]}
    ),
    table("score is NaN", _R, "0.parquet, row 7", "nan", data={"uid": _THEIRS, "score": [*_RISING[:7], float("nan")]}),
    table(
        "score is infinite",
        _R,
        "0.parquet, row 0",
        "inf",
        data={"uid": _THEIRS, "score": [float("-inf"), *_RISING[1:]]},
    ),
    table(
        "score too great for float32",
        _R,
        "0.parquet, row 0",
        "1e+39",
        data={"uid": _THEIRS, "score": [1e39, *_RISING[1:]]},
    ),
    table("zero rows", _R, "tables", data={"uid": pa.array([], pa.string()), "score": pa.array([], pa.float32())}),
    table("uids of another pool", _R, "tables", data={"uid": _MINE, "score": _RISING[:3]}),
    table(
        "short and upper-case uids", _A, data={"uid": [u.upper().lstrip("0") or "0" for u in _THEIRS], "score": _RISING}
    ),
    table("uid that is not UTF-8", _R, _FILE, "UTF8", data={"uid": not_utf8(_THEIRS), "score": _RISING}),
    table("rows of other samples", _A, data={"uid": [*_THEIRS[:2], *_MINE], "score": _RISING[:5]}, scores=2),
    table(
        "score as decimal",
        _R,
        _FILE,
        "decimal",
        data={"uid": _THEIRS, "score": pa.array(range(NUM_SAMPLES), pa.decimal128(9, 2))},
    ),
    table("score as half precision", _A, data={"uid": _THEIRS, "score": pa.array(_RISING, pa.float16())}),
]
