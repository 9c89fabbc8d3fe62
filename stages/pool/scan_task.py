"""Pass A: a group of consecutive shards becomes sorted runs, once, in whatever run.

What was found is an entry (`pipeline.reuse`). The entry of a group that begins with the same shards is gone on from, so
that of a pool that grows at its end every shard is read once.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from pipeline.artifact import Artifact, FileEntry, canonical_json, parquet_bytes, sha256_hex
from pipeline.reuse import Entries, chained_keys
from pipeline.schema import ORDER
from pipeline.storage import Storage
from stages.kernels.grouping import consecutive_groups, shard_group_bytes
from stages.pool.quarantine import ShardTally, quarantine_table
from stages.pool.runs import RUN_FORMAT, Run, run_bits, run_bytes, run_rows, sort_by_uid
from stages.pool.scan import POOL_SCHEMA, Check, ShardRef, ShardScan, scan_shard

SHARDS = "pool/shards"
"""Kind of the entries."""
_VERSION = 1
"""Raised whenever the same shards give other rows, or rows of another form, than before."""


@dataclass(frozen=True)
class ShardFacts:
    """What shards.parquet says of a shard, and what is broken in it."""

    shard: int
    path: str
    bytes: int
    version: str
    sha256: str
    seen: int
    usable: int
    fault: str | None
    reasons: Mapping[str, int]

    def tally(self) -> ShardTally:
        """Counts of broken samples."""
        return ShardTally(self.path, self.seen, self.reasons)


@dataclass(frozen=True)
class GroupScan:
    """Result of one task."""

    entry: str
    """Name of the entry that holds it."""
    run: Run
    """POOL columns by uid."""
    order: str
    """URI of a table: ORDER by place."""
    broken: str
    """URI of a table: QUARANTINE by place."""
    shards: tuple[ShardFacts, ...]
    normalised: Mapping[str, int]

    @property
    def digest(self) -> str:
        """Of the bytes of its shards, and their numbers."""
        return sha256_hex(canonical_json([[shard.shard, shard.sha256] for shard in self.shards]))


@dataclass
class _Found:
    """What is known of the first shards of a group."""

    samples: list[pa.Table]
    """POOL rows."""
    broken: list[pa.Table]
    """QUARANTINE rows by place."""
    shards: list[ShardFacts]
    normalised: Counter[str]

    def add(self, scan: ShardScan) -> None:
        shard, reasons = scan.shard, Counter(row.reason for row in scan.broken)
        self.samples.append(scan.table)
        self.broken.append(quarantine_table(scan.broken))
        self.normalised.update(scan.normalised)
        rows = (scan.sha256, scan.seen, scan.table.num_rows, scan.fault, dict(reasons))
        self.shards.append(ShardFacts(shard.number, shard.path, shard.bytes, shard.version, *rows))


def group_shards(shards: Sequence[ShardRef]) -> list[tuple[ShardRef, ...]]:
    """Consecutive shards: the same groups for the same shards, anywhere, and whatever comes behind them."""
    return consecutive_groups(shards, lambda shard: shard.bytes, shard_group_bytes)


def scan_group(shards: tuple[ShardRef, ...], *, storage: Storage, entries: Entries, check: Check) -> GroupScan:
    """Find what is known of these shards, scan the others, and leave it as an entry."""
    keys = chained_keys(
        entries.key(_VERSION, RUN_FORMAT, check),
        [[shard.number, shard.path, shard.bytes, shard.version] for shard in shards],
    )
    known, entry = entries.find_longest(keys)
    if entry is None or known < len(shards):
        found = _begun(entry)
        for shard in shards[known:]:
            found.add(scan_shard(storage, shard, check))
        entry = _put(found, entries, keys[-1])
    return _result(entry, entries.name(keys[-1]))


def _begun(entry: Artifact | None) -> _Found:
    if entry is None:
        return _Found([], [], [], Counter())
    samples, broken = _file(entry, "samples-"), _file(entry, "broken-")
    return _Found(
        [run_rows(entry.read_bytes(samples.path), int(entry.summary["bits"]), POOL_SCHEMA)],
        [entry.read_table(broken.path)],
        list(_facts(entry)),
        Counter(entry.summary["normalised"]),
    )


def _put(found: _Found, entries: Entries, key: str) -> Artifact:
    samples = pa.concat_tables(found.samples).combine_chunks()
    order = samples.select(list(ORDER.columns)).sort_by([("shard", "ascending"), ("offset", "ascending")])
    bits, writer = run_bits(samples.num_rows), entries.writer(key)
    files = [
        writer.put_by_content("samples", ".run", run_bytes(sort_by_uid(samples, "shard", "offset"), bits)),
        writer.put_by_content("order", ".parquet", parquet_bytes(order)),
        writer.put_by_content("broken", ".parquet", parquet_bytes(pa.concat_tables(found.broken).combine_chunks())),
    ]
    summary = {
        "bits": bits,
        "shards": [asdict(shard) for shard in found.shards],
        "normalised": {name: count for name, count in sorted(found.normalised.items()) if count},
    }
    return entries.commit(key, files, summary)


def _result(entry: Artifact, name: str) -> GroupScan:
    return GroupScan(
        name,
        Run(entry.uri(_file(entry, "samples-").path), int(entry.summary["bits"])),
        entry.uri(_file(entry, "order-").path),
        entry.uri(_file(entry, "broken-").path),
        _facts(entry),
        entry.summary["normalised"],
    )


def _facts(entry: Artifact) -> tuple[ShardFacts, ...]:
    return tuple(ShardFacts(**facts) for facts in entry.summary["shards"])


def _file(entry: Artifact, prefix: str) -> FileEntry:
    (file,) = entry.files(prefix)
    return file
