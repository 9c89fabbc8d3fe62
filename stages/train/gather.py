"""What all ranks scored in training, as the score table `scores/mimic`."""

from collections.abc import Mapping
from typing import ClassVar

from pipeline.artifact import Counts
from pipeline.config_base import Config
from pipeline.errors import RunError
from pipeline.schema import MODEL, POOL, Schema
from pipeline.stage import Size, Stage, StageContext, StagePlan, StageResult
from stages.formats.ledger_gather import MAX_PARTITION_ROWS, MIMIC, gather_ledger

BYTES_PER_ROW = 40
"""Of the score table in Parquet."""
TASK_BYTES_PER_ROW = 200


class GatherStage(Stage[Config]):
    """Compacts the ledger: bucketed and sorted by (uid, visit), each score with its place in its batch.

    Rows in = rows out. Replayed steps are not in the ledger twice, because training lists the parts of its last
    checkpoint alone; should a sample have two scores for one visit all the same, that is an error.
    Between the passes the rows lie below `parts/` of the artifact, 46 bytes each, unlisted.
    """

    takes: ClassVar[Mapping[str, Schema]] = {"pool": POOL, "training": MODEL}
    gives: ClassVar[Schema] = MIMIC

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """Two passes over the rows that training leaves."""
        rows = inputs["training"].rows
        return StagePlan(
            Size(rows, rows * BYTES_PER_ROW),
            partitions=max(1, -(-rows // MAX_PARTITION_ROWS)),
            peak_task_bytes=min(rows, MAX_PARTITION_ROWS) * TASK_BYTES_PER_ROW,
            cpu_hours=2 * rows / rates["rows_per_second_per_cpu"] / 3600,
        )

    def run(self, context: StageContext) -> StageResult:
        """Split the ledger by uid prefix, then merge each bucket."""
        pool = context.inputs["pool"]
        bits, usable = int(pool.summary["bucket_bits"]), int(pool.summary["usable"])
        gathered = gather_ledger(
            context.engine.map,
            context.inputs["training"],
            context.output,
            measure="score",
            bits=bits,
            name="gather scores",
        )
        if gathered.scored > usable:
            raise RunError(
                "more samples were scored than the pool has",
                where=context.inputs["training"].root,
                expected=f"at most {usable}",
                found=gathered.scored,
                next_step="the training belongs to another pool: remove its artifact",
            )
        summary = {
            "selector": "mimic",
            "visits": gathered.visits,
            "rows": gathered.rows,
            "scored": gathered.scored,
            "usable": usable,
            "coverage": gathered.scored / max(usable, 1),
            "bucket_bits": bits,
            "batched": True,
        }
        return StageResult(gathered.files, summary, Counts(seen=gathered.rows_in, out=gathered.rows))
