"""What the report would take, from the sizes of the uid-keyed tables."""

from collections.abc import Mapping

from pipeline.stage import Size, StagePlan
from pipeline.traffic import Traffic, tables, writes
from stages.kernels.buckets import UID_BYTES, buckets_of_size, planned_pass
from stages.report.config import ReportConfig

_PASSES = 3
"""How scores are spread, histograms in that frame, candidates for the galleries."""
_GROUPS = 64
_REASON_BYTES = 17
_SCORE_BYTES = 22
_BYTES_PER_PICTURE = 4_500
_PAGE_BYTES = 300_000
_PICTURES = 4
"""Galleries that are full; the others are small."""
_BINS = 8 << 20
"""Of a task's counts of one source at full resolution."""


def plan_report(config: ReportConfig, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
    """Three passes over pool, reasons, decisions and scores; the page's size follows from its pictures."""
    pool = inputs["pool"]
    scores = [size for role, size in inputs.items() if role.startswith("scores")]
    score_rows = sum(size.rows for size in scores)
    buckets = buckets_of_size(pool)
    one_pass = planned_pass(pool, UID_BYTES) + tables(buckets, pool.rows * _REASON_BYTES)
    for size in [*scores, *([inputs["decisions"]] if "decisions" in inputs else [])]:
        one_pass += planned_pass(size, _SCORE_BYTES)
    pictures = config.gallery * _PICTURES
    groups = min(buckets, _GROUPS)
    return StagePlan(
        Size(0, _PAGE_BYTES + pictures * _BYTES_PER_PICTURE),
        partitions=_PASSES * groups,
        peak_task_bytes=(pool.rows * 140 + score_rows * 40) // buckets,
        cpu_hours=(pool.rows + score_rows) / rates["report_rows_per_second_per_cpu"] / 3600,
        traffic=one_pass.times(_PASSES) + Traffic(int(pictures * rates["bytes_per_sample"]), pictures) + writes(2),
        driver_bytes=groups * (len(scores) + 1) * _BINS,
        num_files=2,
    )
