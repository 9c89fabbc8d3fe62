"""Reading one shard: what is in it, where each sample's bytes lie, and what is broken."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from pipeline.errors import RunError
from pipeline.schema import POOL
from pipeline.storage import Storage
from stages.formats.datacomp import Parts, SampleError, sample_parts
from stages.formats.image import ImageError, ImageInfo, probe_image, verify_image
from stages.formats.tar import Sample, ShardReader
from stages.formats.tar_headers import Source
from stages.kernels.uid import parse_hex
from stages.pool.quarantine import Broken

POOL_SCHEMA = pa.schema(list(POOL.columns.items()))
Check = Literal["headers", "decode"]

_COPY_BYTES = 1 << 20
_HALF_DONE = frozenset({"no_uid", "no_image", "no_caption", "bad_json"})
"""What a sample looks like whose last members were cut off with the end of the shard."""


class ShardRef(NamedTuple):
    """A shard as listed."""

    number: int
    """Place among the shards in use, by path."""
    path: str
    """Relative to the pool."""
    uri: str
    bytes: int
    version: str


@dataclass
class ShardScan:
    """What one shard holds."""

    shard: ShardRef
    table: pa.Table = field(default_factory=POOL_SCHEMA.empty_table)
    """POOL columns of its usable samples, by offset."""
    broken: list[Broken] = field(default_factory=list)
    normalised: Counter[str] = field(default_factory=Counter)
    sha256: str = ""
    fault: str | None = None
    """Why the shard could not be read to a proper end."""

    @property
    def seen(self) -> int:
        """Sample groups, broken ones included."""
        return int(self.table.num_rows) + len(self.broken)


class _Hashed:
    """Reads on, and hashes what it reads."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._digest = hashlib.sha256()
        self.position = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._digest.update(data)
        self.position += len(data)
        return data

    def hexdigest(self) -> str:
        """Digest of the whole source."""
        while self.read(_COPY_BYTES):
            pass
        return self._digest.hexdigest()


def scan_shard(storage: Storage, shard: ShardRef, check: Check) -> ShardScan:
    """Read one shard from beginning to end.

    Raises:
        RunError: the shard is not the one that was listed.
    """
    scan = ShardScan(shard)
    rows = _Rows(shard.number)
    with storage.open(shard.uri) as stream:
        source = _Hashed(stream)
        reader = ShardReader(source)
        for sample in reader:
            _take(scan, rows, sample, check)
        scan.sha256 = source.hexdigest()
    if source.position != shard.bytes:
        raise RunError(
            "a shard changed while it was read",
            where=shard.uri,
            expected=f"{shard.bytes} bytes, as listed",
            found=f"{source.position} bytes",
            next_step="run again when nothing writes to the pool any longer",
        )
    scan.table, num_changed = rows.table()
    scan.normalised.update({"uid": num_changed, "ignored_member": reader.num_ignored})
    return scan


def _take(scan: ShardScan, rows: "_Rows", sample: Sample, check: Check) -> None:
    if not sample.is_place:
        broken = _judge(scan, rows, sample, check)
        if broken is not None:
            scan.broken.append(broken)
        rows.last_is_half_done = broken is not None and broken.reason in _HALF_DONE
        return
    fault = sample.fault
    assert fault is not None  # a place is a fault
    scan.fault = fault.reason
    reason = "truncated_tar" if fault.reason == "no_end_marker" else fault.reason
    if rows.last_is_half_done and not sample.key:  # the shard ends inside the sample before, not inside a further one
        detail = f"{scan.broken[-1].detail}; {fault.detail}"
        scan.broken[-1] = scan.broken[-1]._replace(reason=reason, detail=detail)
    elif fault.reason != "no_end_marker":
        scan.broken.append(Broken(scan.shard.number, fault.offset, fault.member, None, reason, fault.detail))


def _judge(scan: ShardScan, rows: "_Rows", sample: Sample, check: Check) -> Broken | None:
    """Add a usable sample to the rows, or say why it is none."""
    number = scan.shard.number
    if sample.fault is not None:
        fault = sample.fault
        return Broken(number, sample.offset, fault.member, None, fault.reason, fault.detail)
    try:
        parts = sample_parts(sample)
    except SampleError as error:
        return Broken(number, sample.offset, error.member, error.uid, error.reason, error.detail)
    try:
        info = probe_image(parts.image.data)
        if check == "decode":
            verify_image(parts.image.data)
    except ImageError as error:
        return Broken(number, sample.offset, parts.image.name, parts.uid, "broken_image", str(error))
    scan.normalised.update(info.normalised)
    rows.add(sample, parts, info)
    return None


class _Rows:
    """Usable samples of one shard, collected column by column."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._uids: list[str] = []
        self._columns: dict[str, list[Any]] = {name: [] for name in POOL_SCHEMA.names[3:]}
        self._num_changed = 0
        self.last_is_half_done = False

    def add(self, sample: Sample, parts: Parts, info: ImageInfo) -> None:
        self._uids.append(parts.uid)
        self._num_changed += parts.uid_changed
        row: Sequence[Any] = (
            sample.offset,
            sample.length,
            sample.key,
            parts.image.ext,
            len(parts.caption),
            len(parts.caption.split()),
            info.width,
            info.height,
            parts.image.size,
        )
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)

    def table(self) -> tuple[pa.Table, int]:
        """POOL columns, and how many uids had to be put into the normal form."""
        parsed = parse_hex(self._uids)
        columns = {"uid_hi": parsed.hi, "uid_lo": parsed.lo, "shard": [self._shard] * len(self._uids), **self._columns}
        arrays = [pa.array(columns[field.name], field.type) for field in POOL_SCHEMA]
        return pa.Table.from_arrays(arrays, schema=POOL_SCHEMA), self._num_changed
