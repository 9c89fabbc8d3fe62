"""The pool stage: strict reading of shards and metadata into one index by uid, and one list by place."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pipeline.artifact import Counts, FileEntry
from pipeline.schema import POOL, Schema
from pipeline.stage import External, ExternalFiles, Size, Stage, StageContext, StagePlan, StageResult
from pipeline.storage import Storage, relative
from stages.formats.datacomp import check_metadata_schema, read_metadata_schema
from stages.kernels.uid import bucket_of, parse_hex
from stages.pool.config import PoolConfig
from stages.pool.draw import draw_shards
from stages.pool.index import BucketItem, BucketResult, Runs, index_bucket
from stages.pool.merge import merged
from stages.pool.metadata import METADATA, MetadataRun, group_files, metadata_schema, put_metadata, run_schema
from stages.pool.order import OrderItem, put_order
from stages.pool.plan import plan_pool
from stages.pool.quarantine import QUARANTINE, LostShard, check_share, check_unreadable
from stages.pool.runs import Run, bits_for
from stages.pool.scan import POOL_SCHEMA, ShardRef
from stages.pool.scan_task import SHARDS, GroupScan, ShardFacts, group_shards, scan_group

_LEAST_BYTES_A_SAMPLE = 16 << 10
"""For a first guess at the number of buckets; how runs are laid out changes no result."""
_NUM_NAMED = 5
"""Shards that a warning names."""
_MAX_DEVIATION = 0.01
_SCAN_MEMORY = 1 << 30


class PoolStage(Stage[PoolConfig]):
    """Index of all usable samples, metadata joined; the broken ones in quarantine, with their reasons."""

    version = 3
    takes: ClassVar[Mapping[str, Schema]] = {}
    gives = POOL

    @property
    def keeps(self) -> tuple[str, ...]:
        """What was read of shards and of metadata."""
        return (SHARDS, METADATA)

    def external(self) -> Mapping[str, External]:
        """Shards, and metadata if there is any."""
        demo = "make the demo pool with `gradsieve pool make data/demo`, or point pool.path at a folder of .tar shards"
        declared = {"shards": External(self.config.path, suffix=".tar", missing=demo)}
        if self.config.metadata is not None:
            missing = "point pool.metadata at a folder of .parquet files keyed by uid, or leave it out"
            declared["metadata"] = External(self.config.metadata, suffix=".parquet", missing=missing)
        return declared

    def preflight(self, external: Mapping[str, ExternalFiles], storage: Storage) -> None:
        """Refuse metadata that cannot be joined, by its first file."""
        if "metadata" in external:
            uri = external["metadata"].files[0].uri
            check_metadata_schema(read_metadata_schema(storage, uri), uri)

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """From `expected_samples`; the pool is not looked at."""
        del inputs
        return plan_pool(self.config, rates)

    def run(self, context: StageContext) -> StageResult:
        """Scan shards, read metadata, then make the index bucket by bucket and the order part by part.

        Raises:
            UserError: no samples, more than `max_quarantined` of them broken, or metadata that cannot be joined.
        """
        making = _Making(self.config, context)
        groups = making.scan()
        facts = [shard for group in groups for shard in group.shards]
        check_share([shard.tally() for shard in facts], self.config.max_quarantined, making.where)
        check_unreadable(
            _lost(facts),
            num_shards=len(facts),
            num_bytes=sum(shard.bytes for shard in facts),
            max_share=self.config.max_quarantined,
            where=making.where,
        )
        columns, metadata = making.read_metadata()
        usable = sum(shard.usable for shard in facts)
        bits = bits_for(usable, self.config.bucket_rows, making.metadata_bytes)
        broken = making.broken_table(groups)
        buckets = making.index(groups, metadata, columns, broken, bits)
        duplicates = pa.concat_tables([result.duplicates for result in buckets])
        facts = _without_duplicates(facts, duplicates)
        check_share([shard.tally() for shard in facts], self.config.max_quarantined, making.where)
        parts = making.order(groups, duplicates)
        quarantine = pa.concat_tables([broken, duplicates]).sort_by([("shard", "ascending"), ("offset", "ascending")])
        entries = [entry for result in buckets for entry in (result.index, result.missing)]
        entries += [*parts, *making.shard_tables(facts), context.output.put_table("quarantine.parquet", quarantine)]
        summary = _summary(facts, groups, metadata, buckets, columns, bits)
        making.warn(summary, facts)
        counts = Counts(seen=summary["samples"], out=summary["usable"], quarantined=summary["quarantined"])
        used = (*(group.entry for group in groups), *(found.entry for found in metadata))
        return StageResult(tuple(entries), summary, counts, entries=used)


class _Making:
    """The steps of one run."""

    def __init__(self, config: PoolConfig, context: StageContext) -> None:
        self._config = config
        self._context = context
        shards = context.external["shards"]
        self.where = shards.uri
        drawn = draw_shards(shards.files, config.sample, context.seed, root=shards.uri)
        self._shards = [
            ShardRef(number, _path(shards.uri, stat.uri), stat.uri, stat.bytes, stat.version)
            for number, stat in enumerate(drawn)
        ]
        self._files = context.external["metadata"].files if "metadata" in context.external else ()
        share = sum(shard.bytes for shard in drawn) / max(1, sum(stat.bytes for stat in shards.files))
        self.metadata_bytes = int(sum(stat.bytes for stat in self._files) * share)
        guess = sum(shard.bytes for shard in self._shards) // _LEAST_BYTES_A_SAMPLE
        self._merged_bits = bits_for(guess, config.bucket_rows, self.metadata_bytes)

    def scan(self) -> list[GroupScan]:
        items = group_shards(self._shards)
        task = partial(
            scan_group,
            storage=self._context.storage,
            entries=self._context.entries[SHARDS],
            check=self._config.check,
        )
        return self._context.engine.map(
            task, items, name="pool: read shards", unit="shards", weigh=len, memory=_SCAN_MEMORY
        )

    def read_metadata(self) -> tuple[pa.Schema, list[MetadataRun]]:
        columns = metadata_schema(self._context.storage, self._files)
        items = group_files(self._files)
        task = partial(
            put_metadata,
            root=self._context.external["metadata"].uri if items else "",
            storage=self._context.storage,
            entries=self._context.entries[METADATA],
            columns=columns,
        )
        return columns, self._context.engine.map(
            task, items, name="pool: read metadata", unit="files", weigh=lambda item: len(item.files)
        )

    def broken_table(self, groups: Sequence[GroupScan]) -> pa.Table:
        """QUARANTINE rows of all shards; their number is bounded by `max_quarantined`."""
        faulty = [group for group in groups if any(shard.reasons for shard in group.shards)]
        tables = [self._context.storage.read_table(group.broken) for group in faulty]
        return pa.concat_tables([QUARANTINE.empty_table(), *tables])

    def index(
        self,
        groups: Sequence[GroupScan],
        metadata: Sequence[MetadataRun],
        columns: pa.Schema,
        broken: pa.Table,
        bits: int,
    ) -> list[BucketResult]:
        samples = self._merged([group.run for group in groups], POOL_SCHEMA, ["shard", "offset"], "samples")
        rows = self._merged([found.run for found in metadata], run_schema(columns), [], "metadata")
        runs = Runs(
            samples=tuple(samples),
            metadata=tuple(rows),
            columns=columns,
            metadata_files=tuple(stat.uri for stat in self._files),
            bits=bits,
            report_missing=self._config.sample == 1,
        )
        known = parse_hex(broken["uid"].drop_null())
        bucket = bucket_of(known.hi, bits)
        items = [
            BucketItem(number, known.hi[bucket == number], known.lo[bucket == number]) for number in range(1 << bits)
        ]
        task = partial(index_bucket, runs=runs, storage=self._context.storage, writer=self._context.output)
        return self._context.engine.map(task, items, name="pool: index", unit="buckets")

    def _merged(self, runs: list[Run], schema: pa.Schema, further: Sequence[str], what: str) -> list[Run]:
        return merged(
            self._context.engine,
            runs,
            storage=self._context.storage,
            writer=self._context.output,
            schema=schema,
            to_bits=self._merged_bits,
            further=further,
            name=f"pool: merge {what}",
        )

    def order(self, groups: Sequence[GroupScan], duplicates: pa.Table) -> list[FileEntry]:
        shard, offset = duplicates["shard"].to_numpy(), duplicates["offset"].to_numpy()
        items = []
        for part, group in enumerate(groups):
            inside = (shard >= group.shards[0].shard) & (shard <= group.shards[-1].shard)
            items.append(OrderItem(part, group.order, group.digest, shard[inside], offset[inside]))
        task = partial(put_order, storage=self._context.storage, writer=self._context.output)
        return self._context.engine.map(task, items, name="pool: order", unit="parts")

    def shard_tables(self, facts: Sequence[ShardFacts]) -> list[FileEntry]:
        table = pa.table(
            {
                "shard": pa.array([shard.shard for shard in facts], pa.uint32()),
                "path": pa.array([shard.path for shard in facts], pa.string()),
                "bytes": pa.array([shard.bytes for shard in facts], pa.uint64()),
                "sha256": pa.array([shard.sha256 for shard in facts], pa.string()),
                "seen": pa.array([shard.seen for shard in facts], pa.uint32()),
                "usable": pa.array([shard.usable for shard in facts], pa.uint32()),
                "fault": pa.array([shard.fault for shard in facts], pa.string()),
            }
        )
        versions = pa.table(
            {"shard": table["shard"], "version": pa.array([shard.version for shard in facts], pa.string())}
        )
        writer = self._context.output
        volatile = replace(writer.put_table("shard_versions.parquet", versions), volatile=True)
        return [writer.put_table("shards.parquet", table), volatile]

    def warn(self, summary: Mapping[str, Any], facts: Sequence[ShardFacts]) -> None:
        """Say what a person should look at."""
        warn = self._context.reporter.warn
        for reason, count in summary["shard_faults"].items():
            named = [shard.path for shard in facts if shard.fault == reason][:_NUM_NAMED]
            more = f" and {count - len(named):,} more (shards.parquet, column fault)" if count > len(named) else ""
            warn(f"pool: {count} shard(s) could not be read to their end ({reason}): {', '.join(named)}{more}")
        if "metadata" in self._context.external and summary["without_metadata"] == summary["usable"]:
            warn(f"pool: no sample is in the metadata at {self._context.external['metadata'].uri}: is it of this pool?")
        expected = self._config.expected_samples
        seen = summary["samples"]
        if expected is not None and self._config.sample == 1 and abs(seen - expected) > _MAX_DEVIATION * expected:
            warn(f"pool: {seen:,} samples, where pool.expected_samples says {expected:,}")
        if summary["without_metadata"]:
            warn(f"pool: {summary['without_metadata']:,} samples have no metadata row; its columns are null there")


def _path(root: str, uri: str) -> str:
    return "" if uri == root else relative(root, uri)


def _lost(facts: Sequence[ShardFacts]) -> list[LostShard]:
    """Shards that broke off without a single usable sample."""
    return [LostShard(shard.path, shard.bytes, shard.fault) for shard in facts if shard.fault and not shard.usable]


def _without_duplicates(facts: Sequence[ShardFacts], duplicates: pa.Table) -> list[ShardFacts]:
    count = np.bincount(duplicates["shard"].to_numpy(), minlength=len(facts)).tolist()
    return [
        replace(
            shard, usable=shard.usable - gone, reasons={**shard.reasons, **({"duplicate_uid": gone} if gone else {})}
        )
        for shard, gone in zip(facts, count, strict=True)
    ]


def _summary(
    facts: Sequence[ShardFacts],
    groups: Sequence[GroupScan],
    metadata: Sequence[MetadataRun],
    buckets: Sequence[BucketResult],
    columns: pa.Schema,
    bits: int,
) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    normalised: Counter[str] = Counter({"metadata_uid": sum(run.num_normalised for run in metadata)})
    for shard in facts:
        reasons.update(shard.reasons)
    for group in groups:
        normalised.update(group.normalised)
    return {
        "samples": sum(shard.seen for shard in facts),
        "usable": sum(shard.usable for shard in facts),
        "quarantined": reasons.total(),
        "quarantine_reasons": dict(reasons),
        "missing": sum(result.num_missing - result.num_missing_broken for result in buckets),
        "missing_quarantined": sum(result.num_missing_broken for result in buckets),
        "without_metadata": sum(result.num_without_metadata for result in buckets),
        "metadata_rows": sum(run.rows for run in metadata),
        "normalised": {name: count for name, count in normalised.items() if count},
        "shards": len(facts),
        "shard_faults": dict(Counter(shard.fault for shard in facts if shard.fault is not None)),
        "bucket_bits": bits,
        "metadata_columns": {field.name: str(field.type) for field in columns},
    }
