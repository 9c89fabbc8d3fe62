"""What indexing a pool would take, from its expected size."""

from collections.abc import Mapping

from pipeline.stage import Size, StagePlan
from stages.pool.config import PoolConfig
from stages.pool.runs import bits_for
from stages.pool.scan_task import planned_groups

_INDEX_BYTES = 110
"""Of one row of index and order in Parquet, without metadata columns."""
_METADATA_BYTES = 130
_ROW_MEMORY = 900
"""Of one row while a bucket is merged and joined, captions and URLs among the columns."""
_SHARD_MEMORY = 600 << 20
_DECODES_PER_SECOND = 1400.0
"""Full decodes of a 512-pixel JPEG on one core."""


def plan_pool(config: PoolConfig, rates: Mapping[str, float]) -> StagePlan:
    """Rows and bytes out, tasks, memory and CPU hours."""
    if config.expected_samples is None:
        return StagePlan(Size(0, 0), note="unknown size: set pool.expected_samples")
    rows = int(config.expected_samples * config.sample)
    stored = rows * rates["bytes_per_sample"]
    row_bytes = _INDEX_BYTES + (_METADATA_BYTES if config.metadata is not None else 0)
    num_buckets = 1 << bits_for(rows, config.bucket_rows)
    seconds = stored / rates["index_bytes_per_second_per_cpu"]
    if config.check == "decode":
        seconds += rows / rates.get("decodes_per_second_per_cpu", _DECODES_PER_SECOND)
    return StagePlan(
        Size(rows, rows * row_bytes),
        partitions=max(planned_groups(int(stored)), num_buckets),
        peak_task_bytes=max(_SHARD_MEMORY, -(-rows // num_buckets) * _ROW_MEMORY),
        cpu_hours=seconds / 3600,
        note=f"{config.sample:.1%} of the shards" if config.sample < 1 else "",
    )
