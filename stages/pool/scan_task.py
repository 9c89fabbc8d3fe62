"""Pass A: a group of consecutive shards becomes sorted runs, once, however often the stage is started."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from pipeline.artifact import ArtifactWriter, canonical_json, sha256_hex
from pipeline.schema import ORDER
from pipeline.storage import Storage, join
from stages.kernels.grouping import consecutive_groups, shard_group_bytes
from stages.pool.quarantine import ShardTally, quarantine_table
from stages.pool.runs import RUN_FORMAT, put_run, sort_by_uid
from stages.pool.scan import POOL_SCHEMA, Check, ShardRef, scan_shard

WORK = "work"
"""Folder of private files inside the artifact."""


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

    stem: str
    """Name of the group's private files, without ending."""
    shards: tuple[ShardFacts, ...]
    normalised: Mapping[str, int]

    def path(self, kind: str) -> str:
        """Private table: `order` (ORDER by place), `broken` (QUARANTINE by place)."""
        return f"{self.stem}-{kind}.parquet"

    @property
    def run(self) -> str:
        """Private file: POOL columns by uid, as a run."""
        return f"{self.stem}-samples.run"


def group_shards(shards: Sequence[ShardRef]) -> list[tuple[ShardRef, ...]]:
    """Consecutive shards, about as many bytes in each group: the same groups for the same shards, anywhere."""
    target = shard_group_bytes(sum(shard.bytes for shard in shards))
    return consecutive_groups(shards, lambda shard: shard.bytes, target)


def scan_group(
    shards: tuple[ShardRef, ...], *, storage: Storage, writer: ArtifactWriter, check: Check, bits: int
) -> GroupScan:
    """Scan shards and put their private files, the result's own last; if that is there already, nothing is read."""
    listed = [[*shard[1:2], *shard[3:]] for shard in shards]
    stem = f"{WORK}/{shards[0].number:08d}-{sha256_hex(canonical_json([listed, check, bits, RUN_FORMAT]))[:16]}"
    finished = join(writer.root, f"{stem}.json")
    if storage.exists(finished):
        return _parse(storage.read_bytes(finished))
    tables, broken, facts = [POOL_SCHEMA.empty_table()], [], []
    normalised: Counter[str] = Counter()
    for shard in shards:
        scan = scan_shard(storage, shard, check)
        tables.append(scan.table)
        broken += scan.broken
        normalised.update(scan.normalised)
        reasons = Counter(row.reason for row in scan.broken)
        facts.append(
            ShardFacts(
                shard.number,
                shard.path,
                shard.bytes,
                shard.version,
                scan.sha256,
                scan.seen,
                scan.table.num_rows,
                scan.fault,
                dict(reasons),
            )
        )
    result = GroupScan(stem, tuple(facts), {name: count for name, count in normalised.items() if count})
    samples = pa.concat_tables(tables).combine_chunks()
    put_run(writer, result.run, sort_by_uid(samples, "shard", "offset"), bits)
    writer.put_table(result.path("order"), samples.select(list(ORDER.columns)))
    writer.put_table(result.path("broken"), quarantine_table(broken))
    writer.put_json(f"{stem}.json", asdict(result))
    return result


def _parse(data: bytes) -> GroupScan:
    body = json.loads(data)
    return GroupScan(body["stem"], tuple(ShardFacts(**facts) for facts in body["shards"]), body["normalised"])
