"""Minus the loss that training recorded at each visit: what is hard to fit is not kept."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pipeline.artifact import Counts
from pipeline.config_base import Config
from pipeline.schema import MODEL, POOL, Schema
from pipeline.stage import Size, StageContext, StagePlan, StageResult
from stages.formats.ledger_gather import BYTES_PER_ROW, LOSS, MAX_PARTITION_ROWS, TASK_BYTES_PER_ROW, gather_ledger
from stages.selectors.base import Selector


class LossConfig(Config):
    """The training loss as a score; costs nothing beyond the training."""

    kind: Literal["loss"]
    """Which method this is."""

    def roles(self) -> tuple[str, ...]:
        """What it is made from."""
        return ("pool", "training")


class LossSelector(Selector[LossConfig]):
    """One row a sample and visit; comparable within a batch, as the mimic score is."""

    takes: ClassVar[Mapping[str, Schema]] = {"pool": POOL, "training": MODEL}
    gives: ClassVar[Schema] = LOSS

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
        """Gather the ledger once more, with the loss as what is scored."""
        pool = context.inputs["pool"]
        gathered = gather_ledger(
            context.engine.map,
            context.inputs["training"],
            context.output,
            measure="loss",
            bits=int(pool.summary["bucket_bits"]),
            name=self.name,
        )
        counts = Counts(seen=gathered.rows_in, out=gathered.rows)
        return StageResult(gathered.files, gathered.summary(self.name, pool), counts)
