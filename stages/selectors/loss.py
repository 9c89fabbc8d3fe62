"""Minus the loss that training recorded at each visit: what is hard to fit is not kept."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pipeline.config_base import Config
from pipeline.schema import MODEL, POOL, Schema
from pipeline.stage import Size, StageContext, StagePlan, StageResult
from stages.formats.ledger_gather import LOSS, gather_scores, plan_gathering
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
        """See `plan_gathering`."""
        return plan_gathering(inputs, rates)

    def run(self, context: StageContext) -> StageResult:
        """Gather the ledger once more, with the loss as what is scored."""
        return gather_scores(context, "loss", self.name)
