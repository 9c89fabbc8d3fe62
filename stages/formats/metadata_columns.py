"""Checks that the pool's metadata has the columns that somebody reads, in a type that can be used."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.types as pt

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.schema import POOL
from pipeline.stage import ExternalFiles
from pipeline.storage import Storage
from stages.formats.datacomp import read_metadata_schema
from stages.kernels.buckets import bucket_path

TypeTest = Callable[[pa.DataType], bool]
_PREFIX = "metadata_"
"""In the index, of metadata columns that are called as one of the pool's own."""


class Reader(NamedTuple):
    """Who reads the columns, for messages."""

    title: str
    """Such as `selector clip_score`."""
    key: str
    """Of its block in the configuration."""
    also: str = ""
    """What else there is that could be named."""


def is_number(kind: pa.DataType) -> bool:
    """Integers or floats."""
    return bool(pt.is_integer(kind) or pt.is_floating(kind))


def is_rankable(kind: pa.DataType) -> bool:
    """Integers, floats or booleans."""
    return is_number(kind) or bool(pt.is_boolean(kind))


def is_text(kind: pa.DataType) -> bool:
    """Strings."""
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def is_label(kind: pa.DataType) -> bool:
    """Strings, as a dictionary or plain."""
    return is_text(kind.value_type if pt.is_dictionary(kind) else kind)


def check_metadata(
    external: Mapping[str, ExternalFiles], storage: Storage, wanted: Mapping[str, TypeTest], reader: Reader
) -> None:
    """Refuse, by the header of the first metadata file, columns that are absent or of another kind.

    Raises:
        UserError: naming file, column, expected and found.
    """
    if "metadata" not in external or not wanted:
        return
    first = external["metadata"].files[0].uri
    check_columns(read_metadata_schema(storage, first), wanted, reader, first)


def check_index(pool: Artifact, wanted: Mapping[str, TypeTest], reader: Reader) -> None:
    """The same by the pool's own index, for columns that were joined to it."""
    path = bucket_path(0, "index")
    check_columns(pool.schema(path), wanted, reader, pool.uri(path))


def check_columns(schema: pa.Schema, wanted: Mapping[str, TypeTest], reader: Reader, where: str) -> None:
    """Raise UserError unless the schema has these columns in these kinds."""
    own: Sequence[str] = list(POOL.columns)
    known = {field.name: field.type for field in schema}
    known |= {f"{_PREFIX}{name}": kind for name, kind in known.items() if name in own} | dict(POOL.columns)
    missing = [column for column in wanted if column not in known]
    if missing:
        raise UserError(
            f"{reader.title} needs what the metadata does not have: {', '.join(missing)}",
            where=where,
            expected=f"column(s) {', '.join(missing)}",
            found=f"columns {', '.join(column for column in schema.names if column not in own)}{reader.also}",
            next_step=f"change {reader.key}, or give metadata with that column",
        )
    for column, test in wanted.items():
        if not test(known[column]):
            raise UserError(
                f"{reader.title} cannot use metadata column {column}",
                where=where,
                expected=(test.__doc__ or "").rstrip(".").lower(),
                found=known[column],
                next_step=f"change {reader.key}",
            )
