"""What selecting would take, from the sizes of pool and decisions."""

from collections.abc import Mapping

from pipeline.stage import Size, StagePlan
from pipeline.traffic import sequential, writes
from stages.kernels.buckets import UID_BYTES, buckets_of_size, planned_pass
from stages.kernels.radix import planned_search
from stages.select_config import DECISION, SelectConfig

_FULLEST = 1 / 8
"""Share of similarities in one bin of their first 16 bits: doubles of 0.1 to 0.4 differ in the bits behind."""
_CUT_GROUPS, _REASON_GROUPS = 512, 256
_HISTOGRAM = 512 << 10
_KEPT = 0.3
"""Share that a rule without a fraction is taken to keep."""
_COLUMN_BYTES = 8
_CAPTION_BYTES = 400
"""Of a caption in memory, where one is read."""
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
    searches = planned_search(pool.rows, _FULLEST)
    traffic = one_pass.times(searches) + last_pass + sequential(buckets, reasons.bytes)
    traffic += writes(buckets + max(1, kept * UID_BYTES // _PIECE))
    text = _CAPTION_BYTES if config.filter_columns() else 0
    cuts = min(buckets, max(16, _CUT_GROUPS // columns))
    return StagePlan(
        Size(kept, reasons.bytes + kept * UID_BYTES, buckets),
        partitions=searches * cuts + min(buckets, _REASON_GROUPS),
        peak_task_bytes=pool.rows * (160 + text) // buckets,
        cpu_hours=pool.rows / rates["select_rows_per_second_per_cpu"] / 3600,
        traffic=traffic,
        driver_bytes=cuts * columns * _HISTOGRAM + 100 * pool.rows // buckets,
        num_files=buckets + 1,
    )
