"""Metadata files become sorted runs; their columns become columns of the index.

A run is an entry (`pipeline.reuse`) as those of shards are: of metadata that grows at its end every file is read once,
as long as the columns of all files together stay the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.reuse import Entries, chained_keys
from pipeline.schema import POOL, UID
from pipeline.storage import Stat, Storage, relative
from stages.formats.datacomp import (
    check_metadata_schema,
    read_metadata,
    read_metadata_schema,
    refuse_repeated_names,
)
from stages.kernels.grouping import consecutive_groups
from stages.pool.runs import RUN_FORMAT, Run, conformed, run_bits, run_bytes, run_rows, sort_by_uid

METADATA = "pool/metadata"
"""Kind of the entries."""
_VERSION = 1
"""Raised whenever the same files give other rows, or rows of another form, than before."""
SOURCE = "source_file"
"""Private column of a run: number of the metadata file that a row comes from."""
_GROUP_BYTES = 256 << 20
_TAKEN = frozenset({*POOL.columns, SOURCE})
_UID_SCHEMA = pa.schema(list(UID.items()))


@dataclass(frozen=True)
class MetadataItem:
    """Consecutive metadata files for one task."""

    first: int
    """Number of the first file."""
    files: tuple[Stat, ...]


@dataclass(frozen=True)
class MetadataRun:
    """Result of one task."""

    entry: str
    """Name of the entry that holds it."""
    run: Run
    rows: int
    num_normalised: int


def group_files(files: Sequence[Stat]) -> list[MetadataItem]:
    """Consecutive files, about as many bytes in each group."""
    groups = consecutive_groups(enumerate(files), lambda numbered: numbered[1].bytes, lambda _: _GROUP_BYTES)
    return [MetadataItem(group[0][0], tuple(stat for _, stat in group)) for group in groups]


def planned_groups(total_bytes: int) -> int:
    """Groups that metadata of so many bytes will have, nearly."""
    return max(1, -(-total_bytes // _GROUP_BYTES))


def metadata_schema(storage: Storage, files: Sequence[Stat]) -> pa.Schema:
    """Columns of all metadata files by their name in the index, in types that hold every file's.

    Raises:
        UserError: a file is no Parquet, has no `uid`, or has a column in a type that cannot be joined with another's.
    """
    joint: pa.Schema | None = None
    for stat in files:
        schema = read_metadata_schema(storage, stat.uri)
        check_metadata_schema(schema, stat.uri)
        renamed = _renamed(schema).remove_metadata()
        refuse_repeated_names(renamed.names, stat.uri)
        try:
            joint = renamed if joint is None else pa.unify_schemas([joint, renamed], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UserError(
                "metadata files with different types for one column",
                where=stat.uri,
                expected=f"the types of {files[0].uri} and those before",
                found=error,
                next_step="write the files with one schema",
            ) from error
    return joint if joint is not None else pa.schema([])


def run_schema(columns: pa.Schema) -> pa.Schema:
    """Schema of a metadata run with these columns."""
    return pa.schema([*_UID_SCHEMA, (SOURCE, pa.uint32()), *columns])


def put_metadata(
    item: MetadataItem, *, root: str, storage: Storage, entries: Entries, columns: pa.Schema
) -> MetadataRun:
    """Read metadata files and leave them as one sorted run, or find what an earlier run left.

    Args:
        item: which files.
        root: of all metadata; how files are called below it is part of what they are known by.
        storage: where they are read.
        entries: where runs lie.
        columns: of all metadata.

    Raises:
        UserError: a file is broken, or its uids are.
    """
    schema = run_schema(columns)
    names = [stat.uri if stat.uri == root else relative(root, stat.uri) for stat in item.files]
    keys = chained_keys(
        entries.key(_VERSION, RUN_FORMAT, str(schema), item.first),
        [[name, stat.bytes, stat.version] for name, stat in zip(names, item.files, strict=True)],
    )
    known, entry = entries.find_longest(keys)
    if entry is None or known < len(item.files):
        tables, num_normalised = [schema.empty_table()], 0
        if entry is not None:
            tables.append(_rows(entry, schema))
            num_normalised = int(entry.summary["normalised"])
        for number, stat in enumerate(item.files[known:], item.first + known):
            metadata = read_metadata(storage, stat.uri)
            num_normalised += metadata.num_normalised
            names = _new_names(metadata.table.column_names[2:], keep=("uid_hi", "uid_lo"))
            table = metadata.table.rename_columns(names)
            table = table.append_column(SOURCE, pa.array([number] * table.num_rows, pa.uint32()))
            tables.append(_conformed(table, schema, stat.uri))
        entry = _put(pa.concat_tables(tables).combine_chunks(), num_normalised, entries, keys[-1])
    (file,) = entry.files("rows-")
    summary = entry.summary
    run = Run(entry.uri(file.path), int(summary["bits"]))
    return MetadataRun(entries.name(keys[-1]), run, file.rows, int(summary["normalised"]))


def _rows(entry: Artifact, schema: pa.Schema) -> pa.Table:
    (file,) = entry.files("rows-")
    return run_rows(entry.read_bytes(file.path), int(entry.summary["bits"]), schema)


def _put(table: pa.Table, num_normalised: int, entries: Entries, key: str) -> Artifact:
    bits = run_bits(table.num_rows)
    data = run_bytes(sort_by_uid(table), bits)
    file = entries.writer(key).put_by_content("rows", ".run", data, rows=table.num_rows)
    return entries.commit(key, [file], {"bits": bits, "normalised": num_normalised})


def refuse_repeated(rows: pa.Table, repeated: Sequence[int], files: Mapping[int, str]) -> None:
    """Stop if a uid has several metadata rows.

    Args:
        rows: a bucket of metadata, sorted by uid.
        repeated: rows whose uid is that of the row before.
        files: URIs by number.

    Raises:
        UserError: there are such rows.
    """
    if not len(repeated):
        return
    first = int(repeated[0])
    uid = f"{rows['uid_hi'][first].as_py():016x}{rows['uid_lo'][first].as_py():016x}"
    where = sorted({files[rows[SOURCE][row].as_py()] for row in (first - 1, first)})
    raise UserError(
        "metadata has several rows for one uid",
        where=", ".join(where),
        expected="each uid once",
        found=f"uid {uid} twice, and {len(repeated) - 1} more such rows in its bucket",
        next_step="remove the repeated rows; which of them counts cannot be guessed",
    )


def _conformed(table: pa.Table, schema: pa.Schema, uri: str) -> pa.Table:
    try:
        return conformed(table, schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            "metadata values that do not fit the type that all files share",
            where=uri,
            expected=", ".join(f"{field.name} {field.type}" for field in schema if field.name not in (*UID, SOURCE)),
            found=error,
            next_step="write the files with one schema",
        ) from error


def _renamed(schema: pa.Schema) -> pa.Schema:
    fields = [field for field in schema if field.name not in ("uid", *UID)]
    names = _new_names([field.name for field in fields])
    renamed = zip(names, (_storable(field.type) for field in fields), strict=True)
    return pa.schema([pa.field(name, kind) for name, kind in renamed])


def _storable(kind: pa.DataType) -> pa.DataType:
    """Views are a layout of text in memory, one whose rows Arrow cannot pick; in a file they are plain text."""
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _new_names(names: Sequence[str], keep: Sequence[str] = ()) -> list[str]:
    """Names in the index: what the pool's own columns are called already gets `metadata_` in front."""
    return [*keep, *(f"metadata_{name}" if name in _TAKEN else name for name in names)]
