"""Metadata files become sorted runs; their columns become columns of the index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.artifact import ArtifactWriter, canonical_json, sha256_hex
from pipeline.errors import UserError
from pipeline.schema import POOL, UID
from pipeline.storage import Stat, Storage
from stages.formats.datacomp import (
    check_metadata_schema,
    read_metadata,
    read_metadata_schema,
    refuse_repeated_names,
)
from stages.kernels.grouping import consecutive_groups
from stages.pool.runs import RUN_FORMAT, conformed, put_run, sort_by_uid
from stages.pool.scan_task import WORK

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

    path: str
    rows: int
    num_normalised: int


def group_files(files: Sequence[Stat]) -> list[MetadataItem]:
    """Consecutive files, about as many bytes in each group."""
    groups = consecutive_groups(enumerate(files), lambda numbered: numbered[1].bytes, _GROUP_BYTES)
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
    item: MetadataItem, *, storage: Storage, writer: ArtifactWriter, columns: pa.Schema, bits: int
) -> MetadataRun:
    """Read metadata files and put them as one sorted run.

    Raises:
        UserError: a file is broken, or its uids are.
    """
    schema = run_schema(columns)
    tables, num_normalised = [schema.empty_table()], 0
    for number, stat in enumerate(item.files, item.first):
        metadata = read_metadata(storage, stat.uri)
        num_normalised += metadata.num_normalised
        table = metadata.table.rename_columns(_new_names(metadata.table.column_names[2:], keep=("uid_hi", "uid_lo")))
        table = table.append_column(SOURCE, pa.array([number] * table.num_rows, pa.uint32()))
        tables.append(_conformed(table, schema, stat.uri))
    run = sort_by_uid(pa.concat_tables(tables).combine_chunks())
    listed = [[stat.uri, stat.bytes, stat.version] for stat in item.files]
    digest = sha256_hex(canonical_json([listed, str(schema), bits, RUN_FORMAT]))[:16]
    path = f"{WORK}/metadata-{item.first:08d}-{digest}.run"
    put_run(writer, path, run, bits)
    return MetadataRun(path, run.num_rows, num_normalised)


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
