"""What DataComp's layout says of a sample: its uid, image and caption; and metadata files keyed by uid."""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.schema import UID
from pipeline.storage import Storage
from stages.formats.pair import IMAGE_EXTENSIONS
from stages.formats.tar import Member, Sample
from stages.kernels.uid import parse_hex

_UID = re.compile(r"[0-9a-fA-F]{1,32}")
_FETCH_AGAIN = "download or write this file again, or move it elsewhere"
_TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view())


class SampleError(ValueError):
    """A sample lacks what every sample must have."""

    def __init__(self, reason: str, member: str, detail: str, uid: str | None = None) -> None:
        """`reason` is a name for counting, `member` the file at fault."""
        super().__init__(f"{reason}: {detail}")
        self.reason, self.member, self.detail, self.uid = reason, member, detail, uid


class Parts(NamedTuple):
    """What a sample consists of."""

    uid: str
    """32 lower-case hexadecimal digits."""
    uid_changed: bool
    """Whether it was stored shorter or in upper case."""
    image: Member
    caption: str


def sample_parts(sample: Sample) -> Parts:
    """Find uid, image and caption (`.txt`, or else `caption` in `.json`) of a whole sample.

    Raises:
        SampleError: bad_json, no_uid, bad_uid, no_image, no_caption or bad_caption.
    """
    members = {member.ext: member for member in sample.members}
    fields = _fields(sample, members)
    uid, changed = _uid(sample, fields)
    image = next((members[ext] for ext in IMAGE_EXTENSIONS if ext in members), None)
    if image is None:
        expected = ", ".join(IMAGE_EXTENSIONS)
        raise SampleError("no_image", sample.key, f"members {sorted(members)}, none of {expected}", uid)
    return Parts(uid, changed, image, _caption(sample, members, fields, uid))


def _fields(sample: Sample, members: dict[str, Member]) -> dict[str, object]:
    if "json" not in members:
        raise SampleError("no_uid", sample.key, f"members {sorted(members)}, no .json that holds the uid")
    member = members["json"]
    try:
        fields = json.loads(member.data)
    except (ValueError, RecursionError) as error:
        raise SampleError("bad_json", member.name, str(error)) from error
    if not isinstance(fields, dict):
        raise SampleError("bad_json", member.name, f"{type(fields).__name__} instead of an object")
    return fields


def _uid(sample: Sample, fields: dict[str, object]) -> tuple[str, bool]:
    stored = fields.get("uid")
    if stored is None or stored == "":
        raise SampleError("no_uid", sample.key, "no `uid` in .json")
    if not isinstance(stored, str) or not _UID.fullmatch(stored):
        raise SampleError("bad_uid", sample.key, f"{str(stored)[:80]!r} is not 1 to 32 hexadecimal digits")
    uid = stored.lower().zfill(32)
    return uid, uid != stored


def _caption(sample: Sample, members: dict[str, Member], fields: dict[str, object], uid: str) -> str:
    if "txt" in members:
        try:
            return members["txt"].data.decode()
        except UnicodeDecodeError as error:
            raise SampleError("bad_caption", members["txt"].name, str(error), uid) from error
    caption = fields.get("caption")
    if caption is None:
        raise SampleError("no_caption", sample.key, "neither .txt nor `caption` in .json", uid)
    if not isinstance(caption, str) or (not caption.isascii() and not _is_unicode(caption)):
        raise SampleError("bad_caption", members["json"].name, "`caption` is no text", uid)
    return caption


def _is_unicode(text: str) -> bool:
    """False for text with half a surrogate pair, which JSON can hold and UTF-8 cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


class Metadata(NamedTuple):
    """One metadata file."""

    table: pa.Table
    """uid_hi, uid_lo, then the other columns in their stored types."""
    num_normalised: int
    """Uids that were short or in upper case."""


def check_metadata_schema(schema: pa.Schema, where: str) -> None:
    """Refuse a metadata file without a usable `uid` column.

    Raises:
        UserError: it is missing, twice there, or of another type than string; or another column is there twice.
    """
    if schema.names.count("uid") != 1:
        raise UserError(
            "metadata without a `uid` column",
            where=where,
            expected="a string column `uid`, once",
            found=f"columns {', '.join(schema.names)}",
            next_step="point pool.metadata at files keyed by uid, or leave it out",
        )
    kind = schema.field("uid").type
    if (kind.value_type if pa.types.is_dictionary(kind) else kind) not in _TEXT_TYPES:
        raise UserError(
            "metadata whose `uid` is not text",
            where=f"{where}, column uid",
            expected="32 hexadecimal digits as string",
            found=kind,
            next_step="write the column as hexadecimal text; a number read as digits would be another sample's uid",
        )
    refuse_repeated_names(schema.names, where)


def refuse_repeated_names(names: Sequence[str], where: str) -> None:
    """Columns are found by their names.

    Raises:
        UserError: two of them have the same name.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            "metadata with two columns of the same name",
            where=where,
            expected="each column once",
            found=", ".join(twice),
            next_step="rename one of them, or leave it out",
        )


def read_metadata_schema(storage: Storage, uri: str) -> pa.Schema:
    """The Arrow schema of a Parquet file.

    Raises:
        UserError: it is not one.
    """
    try:
        with storage.open(uri) as source:
            return pq.ParquetFile(source).schema_arrow
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UserError(
            "not a Parquet file", where=uri, expected="metadata as Parquet", found=error, next_step=_FETCH_AGAIN
        ) from error


def read_metadata(storage: Storage, uri: str) -> Metadata:
    """A metadata file with its uids as two halves.

    Raises:
        UserError: not Parquet, cut off, no `uid` column, or uids that are not hexadecimal.
    """
    check_metadata_schema(read_metadata_schema(storage, uri), uri)
    try:
        table = storage.read_table(uri)
        table.validate(full=True)  # text that is not UTF-8 would bring Polars down
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            "a metadata file cannot be read",
            where=uri,
            expected="whole pages of Parquet",
            found=str(error).strip(),
            next_step=_FETCH_AGAIN,
        ) from error
    try:
        parsed = parse_hex(table["uid"].cast(pa.string()))
    except ValueError as error:
        raise UserError(
            "metadata with a bad uid",
            where=f"{uri}, column uid",
            expected="1 to 32 hexadecimal digits in each row",
            found=error,
            next_step="correct these rows, or leave them out",
        ) from error
    halves = {"uid_hi": pa.array(parsed.hi, UID["uid_hi"]), "uid_lo": pa.array(parsed.lo, UID["uid_lo"])}
    rest = {name: table[name] for name in table.column_names if name not in ("uid", *halves)}
    return Metadata(pa.table({**halves, **rest}), parsed.num_normalised)
