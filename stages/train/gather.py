"""What all ranks scored in training, as the score table `scores/mimic`."""

from collections.abc import Mapping
from typing import ClassVar

from pipeline.artifact import Counts
from pipeline.config_base import Config
from pipeline.schema import MODEL, POOL, Schema
from pipeline.stage import Size, Stage, StageContext, StagePlan, StageResult
from stages.formats.ledger_gather import BYTES_PER_ROW, MAX_PARTITION_ROWS, MIMIC, TASK_BYTES_PER_ROW, gather_ledger


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
        gathered = gather_ledger(
            context.engine.map,
            context.inputs["training"],
            context.output,
            measure="score",
            bits=int(pool.summary["bucket_bits"]),
            name="gather scores",
        )
        counts = Counts(seen=gathered.rows_in, out=gathered.rows)
        return StageResult(gathered.files, gathered.summary("mimic", pool), counts)
