"""The reference stage: the weights to mimic, and whether scores by them say anything."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from pipeline.errors import UserError
from pipeline.schema import MODEL, ORDER, Schema
from pipeline.stage import External, ExternalFiles, Size, Stage, StageContext, StagePlan, StageResult
from pipeline.storage import Storage, is_s3
from stages.train.check import Correlation, uninformative_error
from stages.train.config import TrainConfig
from stages.train.mimic_names import mimicked_names
from stages.train.reference_config import TRAIN, ReferenceConfig
from stages.train.reference_measure import ReferenceCheck, measure_anywhere
from stages.train.stage import check_mimicked, loader_spec

_FILE_ENDINGS = (".safetensors", ".pt", ".pth", ".bin")


class ReferenceStage(Stage[ReferenceConfig]):
    """Takes weights from a training of this run, a file or open_clip, and checks them against the pool."""

    version: ClassVar[int] = 1
    takes: ClassVar[Mapping[str, Schema]] = {"pool": ORDER, "init": MODEL, "weights": MODEL}
    gives: ClassVar[Schema] = MODEL

    def __init__(self, config: ReferenceConfig, *, pool_path: str, train: TrainConfig) -> None:
        """Say where things lie.

        Args:
            config: source of the weights, and the check.
            pool_path: folder or prefix of the pool's shards.
            train: the training that will mimic them: model, mimicked parameters, batches.
        """
        super().__init__(config)
        self._pool_path, self._train = pool_path, train

    def external(self) -> Mapping[str, External]:
        """See `Stage`."""
        missing = "`gradsieve pool make data/demo` makes the demo's pool; else check `pool.path`"
        found = {"shards": External(self._pool_path, identity=False, suffix=".tar", missing=missing)}
        if is_file(self.config.source):
            found["weights"] = External(self.config.source, missing="check `reference.source` in the config")
        return found

    def preflight(self, external: Mapping[str, ExternalFiles], storage: Storage) -> None:
        """See `Stage`."""
        del external
        check_mimicked(self._train)
        if self.config.source != TRAIN:
            from stages.train.reference_measure import check_source  # brings torch, which weights from outside need

            check_source(self.config.source, self._train.model, storage)

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """See `Stage`."""
        batches = -(-self.config.check_samples // self._train.batch_size)
        samples = 3 * batches * self._train.batch_size  # losses with two models, and scores
        hours = samples / rates["score_samples_per_second_per_gpu"] / 3600
        weights = inputs["weights"].bytes if "weights" in inputs else 0
        return StagePlan(
            output=Size(0, weights),
            gpu_hours=hours if self._train.use_gpu else 0.0,
            cpu_hours=0.0 if self._train.use_gpu else hours,
            note=f"from {self.config.source}",
        )

    def run(self, context: StageContext) -> StageResult:
        """See `Stage`.

        Raises:
            RunError: the reference is uninformative, and that stops the run.
            UserError: its weights do not fit, or do not differ from the student's.
        """
        if self.config.source == TRAIN and "weights" not in context.inputs:
            raise UserError("no training made a reference", where="reference.tune", expected="an input `weights`")
        loader = loader_spec(self._train, context.inputs["pool"], context.external["shards"].uri, context.seed)
        check = ReferenceCheck(
            train=self._train,
            loader=replace(loader, decode_processes=0),  # a few batches: not worth starting any
            num_samples=self.config.check_samples,
            seed=context.seed,
            output=context.output,
            storage=context.storage,
            source=self.config.source,
            init=context.inputs.get("init"),
            weights=context.inputs.get("weights"),
        )
        files, found = measure_anywhere(check, context.engine)
        self._judge(context, Correlation(found["spearman"], found["samples"]))
        names = mimicked_names(self._train.model, self._train.mimic)
        return StageResult(files, {"source": self.config.source, "parameters": names})

    def _judge(self, context: StageContext, found: Correlation) -> None:
        if found.samples < self.config.check_samples:
            context.reporter.warn(
                f"reference: the pool has {found.samples:,} samples to check it on, fewer than the "
                f"{self.config.check_samples:,} of `reference.check_samples`"
            )
        context.reporter.say(
            f"reference: {found.verdict}, rank correlation of score and loss drop {found.spearman:.3f} "
            f"on {found.samples:,} samples"
        )
        if found.verdict == "informative":
            return
        error = uninformative_error(found, "reference")
        if self.config.on_uninformative == "stop":
            raise error
        context.reporter.warn(str(error))


def is_file(source: str) -> bool:
    """Whether a source names a file or folder, rather than a tag or a model on the hub."""
    if source == TRAIN or source.startswith("hf-hub:"):
        return False
    return is_s3(source) or "/" in source or source.endswith(_FILE_ENDINGS)
