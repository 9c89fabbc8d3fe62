"""What indexing a pool would take, from its expected size."""

from collections.abc import Mapping

from pipeline.stage import Size, StagePlan
from pipeline.traffic import Traffic, listing, sequential, writes
from stages.kernels.grouping import planned_shard_groups
from stages.pool.config import PoolConfig
from stages.pool.merge import planned_merges
from stages.pool.metadata import planned_groups as planned_metadata_groups
from stages.pool.runs import bits_for

_INDEX_BYTES = 34
_ORDER_BYTES = 24
"""Of one row of index and order in Parquet, without metadata columns."""
_RUN_UID_BYTES = 20
"""Of a metadata row between the passes: its uid, and the file that it comes from."""
_METADATA_FILE = 128 << 20
"""Of a metadata file, as DataComp publishes them."""
_UID_FREE = 0.47
"""Of a metadata row's bytes in the index: uids are there already, and compression is better."""
_ROW_MEMORY = 900
"""Of one row while a bucket is merged and joined, captions and URLs among the columns."""
_SHARD_MEMORY = 600 << 20
_SHARD_FACTS = 2500
"""Bytes of what the driver holds of a shard: its listing, and what was found in it."""
_BROKEN_BYTES = 150
_RANGES = 2
"""Of a run, for each bucket: where its rows are, and these."""
_OPENING = 4
"""Requests for a private table: its length, its footer in two reads, and what is wanted of it."""
_FILES_BESIDE = 3
"""A shard has a JSON and a Parquet file beside it, where img2dataset wrote it."""


def plan_pool(config: PoolConfig, rates: Mapping[str, float]) -> StagePlan:
    """Rows and bytes out, tasks, memory and CPU hours."""
    if config.expected_samples is None:
        return StagePlan(Size(0, 0), note="unknown size: set pool.expected_samples")
    rows = int(config.expected_samples * config.sample)
    share = f"{config.sample:.1%} of the shards, " if config.sample < 1 else ""
    stored = int(rows * rates["bytes_per_sample"])
    shards = max(1, round(rows / rates["samples_per_shard"]))
    has_metadata = config.metadata is not None
    metadata = int(config.expected_samples * rates["metadata_bytes_per_sample"]) if has_metadata else 0
    buckets = 1 << bits_for(rows, config.bucket_rows, int(metadata * config.sample))
    groups = planned_shard_groups(stored, shards)
    metadata_files = max(1, metadata // _METADATA_FILE) if has_metadata else 0
    runs = groups + (planned_metadata_groups(metadata) if has_metadata else 0)
    indexed = int(rates["metadata_bytes_per_sample"] * _UID_FREE) if has_metadata else 0
    run_bytes = rows * _INDEX_BYTES + config.expected_samples * (indexed + _RUN_UID_BYTES if has_metadata else 0)
    # Before a shard is read an entry is asked for: one whose group ends with it.
    scan = sequential(shards, stored) + Traffic(gets=shards) + writes(4 * groups) + listing(_FILES_BESIDE * shards)
    read_metadata = (
        Traffic(gets=(_OPENING + 1) * metadata_files)
        + sequential(metadata_files, metadata)
        + writes(2 * (runs - groups))
        + listing(metadata_files)
    )
    found = planned_merges(groups) + (planned_merges(runs - groups) if has_metadata else 0)
    merges = (found if found < runs else 0, run_bytes if found < runs else 0)
    index = Traffic(run_bytes, _RANGES * found * buckets) + writes(2 * buckets)
    index += Traffic(merges[1], runs + merges[0] if merges[0] else 0) + writes(merges[0])
    order = Traffic(rows * _ORDER_BYTES, _OPENING * groups) + writes(groups)
    seconds = stored / rates["index_bytes_per_second_per_cpu"] + rows / rates["index_rows_per_second_per_cpu"]
    if config.check == "decode":
        seconds += rows / rates["decodes_per_second_per_cpu"]
    row_bytes = _INDEX_BYTES + _ORDER_BYTES + indexed
    return StagePlan(
        Size(rows, rows * row_bytes, buckets),
        partitions=groups + runs + merges[0] + buckets,
        peak_task_bytes=max(_SHARD_MEMORY, -(-rows // buckets) * _ROW_MEMORY),
        cpu_hours=seconds / 3600,
        note=f"{share}as pool.expected_samples says: nobody has looked",
        traffic=scan + (read_metadata if has_metadata else Traffic()) + index + order + writes(3),
        private_bytes=run_bytes + merges[1] + rows * _ORDER_BYTES,
        driver_bytes=shards * _SHARD_FACTS + int(config.max_quarantined * rows) * _BROKEN_BYTES,
        num_files=2 * buckets + groups + 3,
    )
