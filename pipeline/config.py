"""The root of the configuration: one block a stage, and where it all runs."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config_base import Config, placement
from pipeline.engine_config import ClusterConfig
from pipeline.limits import LimitsConfig
from pipeline.rates import RatesConfig
from pipeline.storage import StorageConfig
from stages.aggregate_config import AggregateConfig
from stages.binarize_config import BinarizeConfig
from stages.evaluate_config import EvaluateConfig
from stages.pool.config import PoolConfig
from stages.report.config import ReportConfig
from stages.reshard_config import ReshardConfig
from stages.select_config import SelectConfig
from stages.selectors.basic import BasicConfig
from stages.selectors.clip_score import ClipScoreConfig
from stages.selectors.loss import LossConfig
from stages.selectors.table import TableConfig
from stages.train.config import TrainConfig
from stages.train.reference_config import ReferenceConfig

SelectorConfig = Annotated[
    BasicConfig | ClipScoreConfig | LossConfig | TableConfig,
    Field(discriminator="kind"),
]
"""One more method of scoring, keyed by `kind`."""


_SELECTOR_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
"""Names become folders, and columns `<selector>__<visit>`."""


class PlanConfig(Config):
    """The cost model behind `--plan`."""

    rates: RatesConfig = placement(default_factory=RatesConfig)
    """Measured rates and prices."""


class RunConfig(Config):
    """A whole run."""

    seed: int = Field(0, ge=0, lt=2**63)
    """Of everything that draws at random."""
    output: str = placement(min_length=1)
    """Folder or s3:// prefix of the run: subset, shards, evaluation, report."""
    store: str | None = placement(None, min_length=1)
    """Where intermediate artifacts lie; `<output>/store` by default. May be shared between runs."""
    grow_from: str | None = placement(None, min_length=1)
    """Train no more on a pool that grew: take training and reference of an earlier run, and score new samples by them.

    `latest`, the last finished run of the series (with `--dated`; the first one trains), or the output of a run that
    has the same `store`. Scores differ from those that a training on the whole pool would give."""
    pool: PoolConfig
    """The image-text pool to curate."""
    reference: ReferenceConfig
    """The weights to mimic, and how good they must be."""
    train: TrainConfig
    """The mimic selector: CLIP training that scores what it trains on."""
    selectors: dict[str, SelectorConfig] = Field(default_factory=dict)
    """Other selectors by name; each gives a score table of that name."""
    binarize: BinarizeConfig
    """Scores to votes."""
    aggregate: AggregateConfig
    """Votes to decisions."""
    select: SelectConfig
    """Decisions to a subset."""
    reshard: ReshardConfig | Literal["off"] = "off"
    """Subset to shards; `off` leaves only the subset."""
    evaluate: EvaluateConfig | Literal["off"] = "off"
    """Zero-shot and retrieval on an evaluation set."""
    report: ReportConfig
    """The page that says what was dropped and why."""
    limits: LimitsConfig = placement(default_factory=LimitsConfig)
    """Bounds on time and cost."""
    plan: PlanConfig = placement(default_factory=PlanConfig)
    """The cost model."""
    cluster: ClusterConfig = placement(default_factory=ClusterConfig)
    """Where it runs."""
    storage: StorageConfig = placement(default_factory=StorageConfig)
    """How object stores are reached."""

    @model_validator(mode="after")
    def _selector_names(self) -> "RunConfig":
        reserved = {"mimic", "p_keep", "pool"} & set(self.selectors)
        if reserved:
            raise ValueError(f"selectors: the name(s) {sorted(reserved)} are taken by the pipeline itself")
        odd = sorted(name for name in self.selectors if not _SELECTOR_NAME.fullmatch(name))
        if odd:
            raise ValueError(f"selectors: names are lower-case words joined by single `_`; found {odd}")
        return self
