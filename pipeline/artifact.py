"""Immutable artifacts: parts put whole, a manifest put last, digests all the way down.

An artifact exists when its manifest does. Readers read what the manifest lists and nothing else.
"""

import hashlib
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RunError
from pipeline.storage import AlreadyExistsError, Storage, join, open_parquet

FORMAT_VERSION = 1
_DISTINCT = ("uid_hi", "uid_lo")
"""Columns of which no dictionary is tried."""
MANIFEST_NAME = "manifest.json"
WHOLE_BYTES = 4 << 20
"""Tables up to this size are read whole, so that their digest can be checked."""


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces: equal values, equal bytes. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_hex(data: bytes) -> str:
    """SHA-256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a local file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact."""

    path: str
    """Relative to the artifact's root."""
    rows: int
    """Rows of a table, samples of a shard, else 0."""
    bytes: int
    sha256: str
    inputs: str | None = None
    """Digest of what this file was made from, where row-wise stages can reuse it."""
    volatile: bool = False
    """True for facts about this place and time (modification times): not part of the content."""


@dataclass(frozen=True)
class Counts:
    """What came in and where it went: `seen = out + sum(dropped) + quarantined`."""

    seen: int
    out: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    quarantined: int = 0

    def check(self, where: str) -> None:
        """Raise RunError unless the numbers add up."""
        accounted = self.out + sum(self.dropped.values()) + self.quarantined
        if accounted != self.seen:
            raise RunError(
                "samples are unaccounted for",
                where=where,
                expected=f"{self.seen} samples in",
                found=f"{self.out} out + {dict(self.dropped)} dropped + {self.quarantined} quarantined = {accounted}",
                next_step="this is a defect of the stage, not of the input: please report it with the run log",
            )


@dataclass(frozen=True)
class Manifest:
    """What an artifact is, what it was made from, by whom, and each of its files."""

    artifact: str
    fingerprint: str
    """64 hex digits over literal config, content of inputs and the stage's version."""
    inputs: Mapping[str, str]
    """Role -> content digest."""
    files: tuple[FileEntry, ...]
    summary: Mapping[str, Any]
    """Deterministic facts that later stages and the report read; part of the content."""
    counts: Counts | None = None
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """Versions, argv, seconds, host: facts of this making, not of the content."""
    entries: tuple[str, ...] = ()
    """Folders of the store whose results of single tasks (`pipeline.reuse`) were used; not of the content."""

    @property
    def content(self) -> str:
        """Digest of what is in the artifact, whoever made it, wherever it lies."""
        files = sorted((file.path, file.rows, file.bytes, file.sha256) for file in self.files if not file.volatile)
        return sha256_hex(canonical_json([FORMAT_VERSION, self.artifact, files, dict(self.summary)]))

    def to_json(self) -> bytes:
        """Canonical JSON that carries its own digest."""
        body = {"format": FORMAT_VERSION, "content": self.content, **asdict(self)}
        return canonical_json({**body, "digest": sha256_hex(canonical_json(body))})

    @classmethod
    def from_json(cls, data: bytes, where: str) -> "Manifest":
        """Parse and check a manifest.

        Raises:
            RunError: not JSON, another format, or a digest that does not match.
        """
        try:
            body = json.loads(data)
            digest = body.pop("digest")
            found_format = body.pop("format")
            content = body.pop("content")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise RunError(
                "not a manifest",
                where=where,
                expected="JSON object with a digest",
                found=error,
                next_step="restore it, or remove it and run again: what it listed is made anew",
            ) from error
        if found_format != FORMAT_VERSION:
            raise RunError("manifest of another format", where=where, expected=FORMAT_VERSION, found=found_format)
        if sha256_hex(canonical_json({"format": found_format, "content": content, **body})) != digest:
            raise RunError(
                "manifest was changed after it was written",
                where=where,
                expected=f"digest {digest}",
                next_step="restore it, or remove it and run again: what it listed is made anew",
            )
        files = tuple(FileEntry(**entry) for entry in body.pop("files"))
        counts = body.pop("counts")
        entries = tuple(body.pop("entries", ()))
        return cls(files=files, counts=Counts(**counts) if counts else None, entries=entries, **body)


@dataclass(frozen=True)
class Artifact:
    """A finished artifact, opened for reading."""

    root: str
    manifest: Manifest = field(repr=False)
    storage: Storage = field(repr=False)

    @property
    def summary(self) -> Mapping[str, Any]:
        """The manifest's deterministic facts."""
        return self.manifest.summary

    def files(self, prefix: str = "", suffix: str = "") -> list[FileEntry]:
        """Listed files by path, sorted."""
        chosen = (f for f in self.manifest.files if f.path.startswith(prefix) and f.path.endswith(suffix))
        return sorted(chosen, key=lambda file: file.path)

    def uri(self, path: str) -> str:
        """Where a listed file lies."""
        return join(self.root, path)

    def faults(self) -> list[str]:
        """What a listing says against it: files that are gone, or have another length."""
        sizes = {stat.uri: stat.bytes for stat in self.storage.list(self.root)}
        found = []
        for file in self.files():
            uri = self.uri(file.path)
            if uri not in sizes:
                found.append(f"{uri} is gone")
            elif sizes[uri] != file.bytes:
                found.append(f"{uri} has {sizes[uri]} bytes instead of {file.bytes}")
        return found

    def entry(self, path: str) -> FileEntry:
        """What the manifest says of a file.

        Raises:
            FileNotFoundError: nothing.
        """
        try:
            return next(file for file in self.manifest.files if file.path == path)
        except StopIteration:
            raise FileNotFoundError(self.uri(path)) from None

    @contextmanager
    def open_table(self, path: str, *, most: int = WHOLE_BYTES) -> Iterator[pq.ParquetFile]:
        """One listed Parquet file.

        One of up to `most` bytes is read whole and checked against its digest; of a larger one only what is asked for
        is read, its pages checked against their checksums.

        Raises:
            RunError: it is damaged.
        """
        whole = self.entry(path).bytes <= most
        source = io.BytesIO(self.read_bytes(path)) if whole else self.storage.open(self.uri(path))
        try:
            with source:
                yield open_parquet(source)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(path, "the bytes that its manifest lists", str(error).splitlines()[0]) from error

    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """One listed Parquet file, or some of its columns; checked as `open_table` says, without columns as a whole.

        Raises:
            RunError: it is damaged.
        """
        with self.open_table(path, most=WHOLE_BYTES if columns else sys.maxsize) as file:
            table = file.read(columns)
        missing = sorted(set(columns or ()) - set(table.column_names))
        if missing:  # pyarrow passes them over in silence
            raise self._damaged(path, f"columns {', '.join(missing)}", f"columns {', '.join(table.column_names)}")
        return table

    def schema(self, path: str) -> pa.Schema:
        """Columns of one listed Parquet file.

        Raises:
            RunError: it is damaged.
        """
        with self.open_table(path) as file:
            return file.schema_arrow

    def read_bytes(self, path: str) -> bytes:
        """One listed file, checked against its digest.

        Raises:
            RunError: the bytes are not those that the manifest lists.
        """
        entry = self.entry(path)
        data = self.storage.read_bytes(self.uri(path))
        found = sha256_hex(data)
        if found != entry.sha256:
            raise self._damaged(path, f"{entry.bytes} bytes with sha256 {entry.sha256}", f"{len(data)} with {found}")
        return data

    def _damaged(self, path: str, expected: str, found: str) -> RunError:
        return RunError(
            "a file of the run is damaged",
            where=self.uri(path),
            expected=expected,
            found=found,
            next_step="`gradsieve verify RUN` names all that differ; remove that file and run again to remake it",
        )

    def read_json(self, path: str) -> Any:
        """One listed JSON file."""
        return json.loads(self.read_bytes(path))

    def tables(self, prefix: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Listed Parquet files below a prefix, one after the other."""
        for file in self.files(prefix, ".parquet"):
            yield self.read_table(file.path, columns)


@dataclass(frozen=True)
class ArtifactWriter:
    """Puts the parts of one artifact; a picklable handle, used in tasks as well as in the driver."""

    root: str
    storage: Storage
    overwrite: bool = False
    """Deliverables have fixed names that may be replaced; intermediate artifacts never change."""

    def put_bytes(self, path: str, data: bytes, *, rows: int = 0, inputs: str | None = None) -> FileEntry:
        """Put one file under a fixed name."""
        return self._put(FileEntry(path, rows, len(data), sha256_hex(data), inputs), data)

    def put_json(self, path: str, value: object) -> FileEntry:
        """Put canonical JSON."""
        return self.put_bytes(path, canonical_json(value))

    def put_table(self, path: str, table: pa.Table, *, inputs: str | None = None) -> FileEntry:
        """Put a table as Parquet under a fixed name."""
        return self.put_bytes(path, parquet_bytes(table), rows=table.num_rows, inputs=inputs)

    def put_table_by_content(self, stem: str, table: pa.Table) -> FileEntry:
        """Put a table as `<stem>-<sha256[:16]>.parquet`: for results that a zombie could make differently."""
        return self.put_by_content(stem, ".parquet", parquet_bytes(table), rows=table.num_rows)

    def put_by_content(self, stem: str, ending: str, data: bytes, *, rows: int = 0) -> FileEntry:
        """Put one file as `<stem>-<sha256[:16]><ending>`."""
        digest = sha256_hex(data)
        return self._put(FileEntry(f"{stem}-{digest[:16]}{ending}", rows, len(data), digest), data)

    def put_file(
        self, path: str, local: Path, *, rows: int = 0, inputs: str | None = None, sha256: str | None = None
    ) -> FileEntry:
        """Put a file that was built whole on local disk, and use it up; `sha256` where its writer knows the digest."""
        entry = FileEntry(path, rows, local.stat().st_size, sha256 or sha256_file(local), inputs)
        uri = join(self.root, path)
        try:
            self.storage.put_file(uri, local, overwrite=self.overwrite)
        except FileExistsError:
            with self.storage.open(uri) as existing:
                found = hashlib.file_digest(existing, "sha256").hexdigest()
            if found != entry.sha256:
                raise AlreadyExistsError(
                    "an immutable object exists with other content", where=uri, expected=entry.sha256, found=found
                ) from None
        return entry

    def _put(self, entry: FileEntry, data: bytes) -> FileEntry:
        put = self.storage.put if self.overwrite else self.storage.put_once
        put(join(self.root, entry.path), data)
        return entry


def parquet_bytes(table: pa.Table, *, row_group_rows: int = 1 << 20) -> bytes:
    """A table as Parquet; equal tables, equal bytes (for one pyarrow version).

    Where a column is a dictionary, the types of the columns are Parquet's own: it reads as what its values are.
    """
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(None),
        sink,
        compression="zstd",
        row_group_size=row_group_rows,
        use_dictionary=[name for name in table.column_names if name not in _DISTINCT],
        store_schema=not any(pa.types.is_dictionary(field.type) for field in table.schema),
        write_page_checksum=True,
    )
    return sink.getvalue()


def entries_rows(files: Iterable[FileEntry]) -> int:
    """Rows in all of these files."""
    return sum(file.rows for file in files)
