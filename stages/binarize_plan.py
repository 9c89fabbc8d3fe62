"""What binarizing would take, from the sizes of pool and score tables."""

from collections.abc import Mapping

from pipeline.stage import Size, StagePlan
from pipeline.traffic import writes
from stages.binarize_config import BinarizeConfig
from stages.kernels.buckets import TASK_BASE, UID_BYTES, buckets_of_size, planned_pass

_GROUPS = 512
"""Tasks of such a pass at most, where there is one voter; each answers with a histogram a voter."""
_HISTOGRAM = 640 << 10
_SCORE_BYTES = 22
"""Of a score's row as it is read: uid, visit, and the column of its scale."""


_VALUE_BYTES = 6
"""Of such a row as long as no uid is wanted."""
_SAMPLED = 2
"""Buckets that a bracket is drawn from."""


def plan_binarize(config: BinarizeConfig, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
    """Votes by bucket; uids do not compress, a vote takes about a quarter of a byte."""
    pool = inputs["pool"]
    tables = {role.removeprefix("scores/"): size for role, size in inputs.items() if role.startswith("scores/")}
    scores = [tables[name] for name in config.voting(sorted(tables))]
    score_rows = sum(size.rows for size in scores)
    voters = max(1, round(score_rows / max(1, pool.rows)))
    buckets = buckets_of_size(pool)
    groups = min(buckets, max(16, _GROUPS // voters))
    traffic = writes(buckets) + planned_pass(pool, UID_BYTES)
    for size in scores:
        # Counted once and voted on once; before that a few buckets are sampled, behind it one uid is looked up.
        traffic += planned_pass(size, _VALUE_BYTES, 2) + planned_pass(size, _SCORE_BYTES, 2)
        traffic += planned_pass(_some(size, min(buckets, _SAMPLED)), _VALUE_BYTES, 2)
        traffic += planned_pass(_some(size, 1), UID_BYTES)
    return StagePlan(
        Size(pool.rows, pool.rows * UID_BYTES + score_rows // 4, buckets),
        partitions=groups + buckets,
        peak_task_bytes=TASK_BASE + (pool.rows * (UID_BYTES + voters) + score_rows * 70) // buckets,
        cpu_hours=score_rows / rates["binarize_rows_per_second_per_cpu"] / 3600,
        traffic=traffic,
        driver_bytes=groups * voters * _HISTOGRAM,
        num_files=buckets,
    )


def _some(size: Size, num_buckets: int) -> Size:
    """So many buckets of a table."""
    buckets = buckets_of_size(size)
    return Size(size.rows * num_buckets // buckets, size.bytes * num_buckets // buckets, num_buckets)
