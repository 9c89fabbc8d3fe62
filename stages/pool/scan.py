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
        last: Sample | None = None
        usual = frozenset({"txt"})  # until a whole sample tells what samples here consist of
        for sample in reader:
            if sample.is_place:
                last = _end(scan, sample, last, usual)
                continue
            if last is not None:
                _take(scan, rows, last, check)
                usual = _extensions(last)
            last = sample
        if last is not None:
            _take(scan, rows, last, check)
        scan.broken.sort(key=lambda row: row.offset)
        scan.fault = reader.end.reason if reader.end is not None else None
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


def _end(scan: ShardScan, place: Sample, last: Sample | None, usual: frozenset[str]) -> Sample | None:
    """Blame the place where the shard ends on the sample that it cuts; what is left of the last sample.

    Inside a header nothing tells whose member it would have been. It is the last sample's if that lacks something,
    be it only a kind of member that the sample before it has; otherwise a further sample begins there.
    """
    fault = place.fault
    assert fault is not None  # a place is a fault
    reason = "truncated_tar" if fault.reason == "no_end_marker" else fault.reason
    number = scan.shard.number
    if last is not None and not place.key and fault.reason != "data_after_end" and _is_half(last, usual):
        detail = f"only members {sorted(_extensions(last))}; {fault.detail}"
        scan.broken.append(Broken(number, last.offset, last.key, None, reason, detail))
        return None
    if fault.reason != "no_end_marker":
        scan.broken.append(Broken(number, fault.offset, fault.member, None, reason, fault.detail))
    return last


def _is_half(sample: Sample, usual: frozenset[str]) -> bool:
    if sample.fault is not None:
        return False
    try:
        sample_parts(sample)
    except SampleError:
        return True
    return not usual <= _extensions(sample)


def _extensions(sample: Sample) -> frozenset[str]:
    return frozenset(member.ext for member in sample.members)


def _take(scan: ShardScan, rows: "_Rows", sample: Sample, check: Check) -> None:
    broken = _judge(scan, rows, sample, check)
    if broken is not None:
        scan.broken.append(broken)


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
