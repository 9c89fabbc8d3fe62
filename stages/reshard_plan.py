"""What resharding would take, from the sizes of pool and subset."""

from collections.abc import Mapping

from pipeline.stage import Size, StagePlan
from pipeline.traffic import Traffic, sequential, tables, writes
from stages.kernels.grouping import planned_shard_groups
from stages.reshard_config import ReshardConfig

_SLICE_RECORDS = 4 << 20
_GROUP_ROWS = 16 << 20
_MANY_GROUPS = 64
_RANGE_MEMORY = 400 << 20
_RANGE_BYTES = 64 << 20
_ROW_GROUP = 1 << 16
_PATH_BYTES = 90
"""Of a source shard's name in its table, which each task reads."""
_ORDER_BYTES = 24
"""Of a row of the order table in Parquet."""
_MASK_COPIES = 3
"""Of a bit a sample: as found, as dealt out, as sent."""
_ENTRY_BYTES = 1500
"""Of an output shard on the driver: its description, and what is known of its two files."""


def plan_reshard(config: ReshardConfig, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
    """Look every sample of the pool up in the subset, then copy the kept bytes."""
    pool, kept = inputs["pool"], inputs["subset"].rows
    size = int(kept * rates["bytes_per_sample"])
    shards = -(-kept // config.shard_size)
    source_shards = max(1, round(pool.rows / rates["samples_per_shard"]))
    parts = planned_shard_groups(int(pool.rows * rates["bytes_per_sample"]), source_shards)
    groups = max(1, min(parts, -(-pool.rows // max(1, min(_GROUP_ROWS, pool.rows // _MANY_GROUPS)))))
    subset = sequential(1, kept * 16)
    order = tables(parts, pool.rows * _ORDER_BYTES, 16 / _ORDER_BYTES)
    # A wanted sample lies in every third place: pieces are nearer to one another than what is read over.
    source = int(size / max(kept / max(1, pool.rows), 0.1))
    copied = Traffic(source, int(max(source / _RANGE_BYTES, source_shards)) + shards)
    row_group = min(pool.rows / parts, _ROW_GROUP) * _ORDER_BYTES
    rows = int(max(pool.rows * _ORDER_BYTES, shards * row_group))
    described = Traffic(rows, 2 * shards) + tables(1, source_shards * _PATH_BYTES).times(shards)
    slice_memory = min(kept, _SLICE_RECORDS) * 32 + min(pool.rows, _GROUP_ROWS) * 64
    seconds = size / rates["copy_bytes_per_second_per_cpu"] + pool.rows / rates["find_rows_per_second_per_cpu"]
    return StagePlan(
        Size(kept, size),
        partitions=groups + shards,
        peak_task_bytes=max(_RANGE_MEMORY, slice_memory),
        cpu_hours=seconds / 3600,
        traffic=subset.times(groups) + order + copied + described + writes(2 * shards + 2),
        driver_bytes=_MASK_COPIES * pool.rows // 8 + shards * _ENTRY_BYTES,
        num_files=2 * shards + 2,
    )
