"""What selecting would take, from the sizes of pool and decisions."""

from collections.abc import Mapping

from pipeline.stage import Size, StagePlan
from pipeline.traffic import Traffic, sequential, writes
from stages.kernels.bracket import MAX_INSIDE, SAMPLE_ROWS, expected_inside
from stages.kernels.buckets import TASK_BASE, UID_BYTES, buckets_of_size, planned_pass
from stages.kernels.radix import MAX_COLLECTED
from stages.select_config import DECISION, SelectConfig
from stages.select_cuts import SAMPLED_BUCKETS

_REASON_GROUPS = 256
_KEY_BYTES = 16
"""Of a row that a bracket holds: its value and its place."""
_KEPT = 0.3
"""Share that a rule without a fraction is taken to keep."""
_COLUMN_BYTES = 8
_COPIES = 3
"""As answered, put together, and sought through."""
_READERS, _READ_BYTES = 2, 60
"""Buckets whose reasons are read at once, and what a row of one takes meanwhile."""
_CAPTION_BYTES = 400
"""Of a caption in memory, where one is read."""
_STORED_CAPTION = 60
_PIECE = 64 << 20
"""Bytes of one request when an object is put in parts."""


def plan_select(config: SelectConfig, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
    """Uids and a reason for each sample, and 16 bytes for each that is kept; the driver writes the uids."""
    pool, decisions = inputs["pool"], inputs["decisions"]
    buckets = buckets_of_size(pool)
    kept = round(pool.rows * (config.final_fraction() or _KEPT))
    columns = len(config.clip_columns()) + 1
    ranked, decided = _COLUMN_BYTES * columns, 4 * (1 + len(config.names()))
    # Metadata ends the index, and selectors' scores the decisions.
    one_pass = planned_pass(pool, ranked, at_end=True)
    one_pass += planned_pass(decisions, decided, at_end=DECISION not in config.names())
    last_pass = planned_pass(pool, UID_BYTES + ranked, stretches=2, at_end=True)
    last_pass += planned_pass(decisions, UID_BYTES + decided)
    reasons = Size(pool.rows, pool.rows * UID_BYTES, buckets)
    traffic = one_pass + last_pass + sequential(buckets, reasons.bytes)
    if pool.rows > MAX_COLLECTED:
        traffic += one_pass.part(min(buckets, SAMPLED_BUCKETS), buckets)
    traffic += writes(buckets + max(1, kept * UID_BYTES // _PIECE))
    filters = buckets if config.basics() else 0
    if filters:
        traffic += (
            planned_pass(pool, _STORED_CAPTION + ranked, at_end=True) + Traffic(gets=2 * filters) + writes(filters)
        )
    text = _CAPTION_BYTES if config.basics() else 0
    inside = min(MAX_INSIDE, columns * expected_inside(pool.rows, kept / max(1, pool.rows), SAMPLE_ROWS))
    return StagePlan(
        Size(kept, reasons.bytes + kept * UID_BYTES, buckets),
        partitions=buckets + min(buckets, _REASON_GROUPS),
        peak_task_bytes=TASK_BASE + pool.rows * (160 + text) // buckets,
        cpu_hours=pool.rows / rates["select_rows_per_second_per_cpu"] / 3600,
        traffic=traffic,
        driver_bytes=inside * _KEY_BYTES * _COPIES + _READERS * _READ_BYTES * pool.rows // buckets,
        num_files=buckets + filters + 1,
    )
