"""What aggregating would take, from the sizes of votes and score tables."""

from collections.abc import Mapping

from pipeline.stage import Size, StagePlan
from pipeline.traffic import writes
from stages.kernels.buckets import TASK_BASE, buckets_of_size, planned_pass

_GROUPS = 64
"""Tasks that count votes, at most."""
_VOTE_BYTES = 17
_SCORE_BYTES = 22
_DECISION_BYTES = 20
"""Of a row without scores: uid, probability, pattern, mean."""
_TALLY_BYTES = 2 << 20
"""Of one task's counts: patterns, and quantiles of raw scores."""


def plan_aggregate(inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
    """Votes are counted, then joined with the scores; that raw scores are read once more is left out."""
    votes = inputs["votes"]
    scores = [size for role, size in inputs.items() if role.startswith("scores")]
    score_rows = sum(size.rows for size in scores)
    buckets = buckets_of_size(votes)
    traffic = writes(buckets + 1) + planned_pass(votes, 1) + planned_pass(votes, _VOTE_BYTES)
    for size in scores:
        traffic += planned_pass(size, _SCORE_BYTES)
    groups = min(buckets, _GROUPS)
    return StagePlan(
        Size(votes.rows, votes.rows * (_DECISION_BYTES + 4 * len(scores)), buckets),
        partitions=groups + 1 + buckets,
        peak_task_bytes=TASK_BASE + (votes.rows * 130 + score_rows * 50) // buckets,
        cpu_hours=(votes.rows + score_rows) / rates["aggregate_rows_per_second_per_cpu"] / 3600,
        traffic=traffic,
        driver_bytes=groups * _TALLY_BYTES,
        num_files=buckets + 1,
    )
