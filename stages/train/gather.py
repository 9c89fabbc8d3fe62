"""What all ranks scored in training, as the score table `scores/mimic`."""

from collections.abc import Mapping
from typing import ClassVar

from pipeline.config_base import Config
from pipeline.schema import MODEL, POOL, Schema
from pipeline.stage import Size, Stage, StageContext, StagePlan, StageResult
from stages.formats.ledger_gather import MIMIC, gather_scores, plan_gathering


class GatherStage(Stage[Config]):
    """Compacts the ledger: bucketed and sorted by (uid, visit), each score with its place in its batch.

    Rows in = rows out. Replayed steps are not in the ledger twice, because training lists the parts of its last
    checkpoint alone; should a sample have two scores for one visit all the same, that is an error.
    Between the passes the rows lie below `parts/` of the artifact, 46 bytes each, unlisted.
    """

    takes: ClassVar[Mapping[str, Schema]] = {"pool": POOL, "training": MODEL}
    gives: ClassVar[Schema] = MIMIC

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """See `plan_gathering`."""
        return plan_gathering(inputs, rates)

    def run(self, context: StageContext) -> StageResult:
        """Split the ledger by uid prefix, then merge each bucket."""
        return gather_scores(context, "score", "mimic")
