"""The training stage: a model, what it saw step by step, and what it scored."""

import json
import math
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pipeline.artifact import Artifact, FileEntry, sha256_hex
from pipeline.errors import RunError, UserError
from pipeline.schema import MODEL, ORDER, Schema
from pipeline.stage import External, ExternalFiles, Size, Stage, StageContext, StagePlan, StageResult
from pipeline.storage import Storage
from stages.train.checkpoint import Checkpoint, CheckpointStore
from stages.train.config import MimicConfig, TrainConfig
from stages.train.launch import launch
from stages.train.loader import LoaderSpec
from stages.train.mimic_names import mimicked_names, slow_names
from stages.train.plan import plan_training
from stages.train.spec import HISTORY, MODEL_CONFIG, WEIGHTS, TrainSpec

_WAIT_WARNED = 0.1


class TrainStage(Stage[TrainConfig]):
    """Trains CLIP over the pool, from given or random weights; scores what it sees where a reference is given."""

    version: ClassVar[int] = 1
    takes: ClassVar[Mapping[str, Schema]] = {"pool": ORDER, "reference": MODEL, "init": MODEL, "subset": Schema()}
    gives: ClassVar[Schema] = MODEL

    def __init__(
        self,
        config: TrainConfig,
        *,
        pool_path: str,
        on_uninformative: Literal["stop", "warn"] = "stop",
    ) -> None:
        """Say where things lie.

        Args:
            config: the recipe.
            pool_path: folder or prefix of the pool's shards.
            on_uninformative: what to do when the reference check fails at a checkpoint.
        """
        super().__init__(config)
        self._pool_path, self._on_uninformative = pool_path, on_uninformative

    def external(self) -> Mapping[str, External]:
        """See `Stage`."""
        missing = "`gradsieve pool make data/demo` makes the demo's pool; else check `pool.path`"
        return {"shards": External(self._pool_path, identity=False, suffix=".tar", missing=missing)}

    def preflight(self, external: Mapping[str, ExternalFiles], storage: Storage) -> None:
        """See `Stage`: parameters that can be mimicked."""
        del external, storage
        if self.config.method != "uniform" or self.config.mimic != MimicConfig():
            check_mimicked(self.config)

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """See `plan_training`."""
        return plan_training(self.config, inputs, rates)

    def run(self, context: StageContext) -> StageResult:
        """See `Stage`.

        Raises:
            RunError: training diverged, ranks were lost too often, or the reference became uninformative.
            UserError: a method that scores was given no reference, or weights do not fit.
        """
        self._check_inputs(context)
        spec = self._spec(context)
        store = CheckpointStore(context.output)
        begun = time.monotonic()
        before = store.latest()
        if before is not None:
            context.reporter.say(f"{spec.name}: going on from step {before.step:,}")
        for line in costly(self.config) if spec.reference is not None else []:
            context.reporter.warn(f"{spec.name}: {line}")
        standing = None
        if before is None or before.step < before.facts["num_steps"]:
            standing = launch(spec, context.engine, context.reporter)
        seconds = time.monotonic() - begun
        final = store.latest()
        if final is None or final.step != final.facts["num_steps"]:
            raise RunError("training ended before its last step", where=spec.name, found=final and final.step)
        steps_now = final.step - (before.step if before else 0)
        timing: dict[str, float] = {"seconds": seconds, "steps": steps_now}
        if standing is not None:
            timing["data_wait_share"] = round(standing.wait_share, 4)
            self._tell_of_waiting(context, spec, standing.wait_share)
        return self._result(context, spec, store, final, timing)

    def _tell_of_waiting(self, context: StageContext, spec: TrainSpec, share: float) -> None:
        if self.config.use_gpu and share > _WAIT_WARNED:
            context.reporter.warn(
                f"{spec.name}: {share:.0%} of the time its GPUs waited for data; more `train.loader_processes`, or "
                "`train.decode: draft`, would shorten it"
            )

    def _check_inputs(self, context: StageContext) -> None:
        if self.config.method != "uniform" and "reference" not in context.inputs:
            raise UserError(
                f"method `{self.config.method}` needs weights to mimic",
                where="train.method",
                expected="an input `reference`",
                found=sorted(context.inputs),
            )

    def _spec(self, context: StageContext) -> TrainSpec:
        config, pool = self.config, context.inputs["pool"]
        samples = (context.inputs["subset"].uri("sample_ids.npy"),) if "subset" in context.inputs else ()
        return TrainSpec(
            config=config,
            seed=context.seed,
            loader=loader_spec(config, pool, context.external["shards"].uri, context.seed, samples),
            output=context.output,
            name="/".join(context.output.root.split("/")[-3:-1]),
            init=context.inputs.get("init"),
            reference=context.inputs.get("reference"),
            on_uninformative=self._on_uninformative,
        )

    def _result(
        self,
        context: StageContext,
        spec: TrainSpec,
        store: CheckpointStore,
        final: Checkpoint,
        timing: Mapping[str, float],
    ) -> StageResult:
        output, config = context.output, self.config
        files = [
            output.put_bytes("model/open_clip_model.safetensors", store.read(final, WEIGHTS)),
            output.put_bytes("model/open_clip_config.json", store.read(final, MODEL_CONFIG)),
            output.put_bytes("history.parquet", store.read(final, HISTORY), rows=final.step),
            output.put_json("checks.json", final.facts["checks"]),
            *final.ledger,
        ]
        for epoch, entry in sorted(final.facts["epochs"].items(), key=lambda item: int(item[0])):
            data = store.read_file(FileEntry(**entry))
            files.append(output.put_bytes(f"models/epoch-{int(epoch) - 1:03d}.safetensors", data))
        samples_per_second = timing["steps"] * config.batch_size / max(timing["seconds"], 1e-9)
        timings = {**timing, "samples_per_second": round(samples_per_second, 1)}
        files.append(_put_volatile(context, "timing", timings))
        summary = {
            "method": config.method,
            "epochs": len(final.facts["epochs"]),
            "steps": final.step,
            "batch_size": config.batch_size,
            "world_size": sizes[0] if len(sizes := final.world_sizes) == 1 else sizes,
            "lanes": config.lanes,
            "samples": final.facts["num_samples"],
            "samples_seen": samples_trained(config, final),
            "mimicked": mimicked_names(config.model, config.mimic) if spec.reference is not None else [],
            "init": spec.init.manifest.artifact if spec.init is not None else "random",
        }
        if config.decode == "draft":
            from stages.train.draft_difference import draft_difference  # brings torch, in draft mode alone

            summary["draft_difference"] = draft_difference(spec.loader)
        return StageResult(tuple(files), summary, timings=timings)


def loader_spec(
    config: TrainConfig, pool: Artifact, shards: str, seed: int, samples: tuple[str, ...] = ()
) -> LoaderSpec:
    """How a training reads its pool."""
    return LoaderSpec(
        pool=pool,
        pool_path=shards,
        model=config.model,
        seed=seed,
        lanes=config.lanes,
        window=config.window,
        batch_size=config.batch_size,
        replacement=config.sampling == "with_replacement",
        samples=samples,
        decode=config.decode,
        decode_threads=config.loader_threads,
        decode_processes=config.loader_processes,
    )


def check_mimicked(config: TrainConfig) -> None:
    """Refuse parameters that cannot be mimicked.

    Raises:
        UserError: lists those that work.
    """
    try:
        names = mimicked_names(config.model, config.mimic)
    except KeyError:
        names = []
    if not names or slow_names(config.model, names):
        from stages.train.mimic import resolve_names  # brings torch: only for names that need the model itself

        resolve_names(config.model, config.mimic)


def samples_trained(config: TrainConfig, final: Checkpoint) -> int:
    """Visits to samples in all, fillers of short batches not counted."""
    num_samples = int(final.facts["num_samples"])
    epochs, rest = divmod(final.step, math.ceil(num_samples / config.batch_size))
    return epochs * num_samples + min(rest * config.batch_size, num_samples)


def costly(config: TrainConfig) -> list[str]:
    """Parameters that lie before the last attention, as a warning."""
    names = slow_names(config.model, mimicked_names(config.model, config.mimic))
    if not names:
        return []
    return [f"{', '.join(names)} lie(s) before the last attention: scores take a second pass through the tower"]


def _put_volatile(context: StageContext, stem: str, value: Mapping[str, Any]) -> FileEntry:
    """A file about this making, no part of the content; named by its bytes, so that no other making replaces it."""
    data = (json.dumps(value, indent=2) + "\n").encode()
    path = f"{stem}-{sha256_hex(data)[:16]}.json"
    context.output.put_bytes(path, data)
    return FileEntry(path, 0, len(data), sha256_hex(data), volatile=True)
