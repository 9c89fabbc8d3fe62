"""Evaluate what was trained: zero-shot accuracy and retrieval of final and epoch-end models."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.artifact import Artifact, FileEntry
from pipeline.errors import UserError
from pipeline.schema import DOCUMENTS, MODEL, Schema
from pipeline.stage import External, ExternalFiles, Size, Stage, StageContext, StagePlan, StageResult
from pipeline.storage import Storage
from stages.evaluate_config import EvaluateConfig
from stages.evaluate_data import DataSet, find_data_sets, read_examples

__all__ = ["EvaluateConfig", "EvaluateStage"]

STUDENT = "mimic"
"""The model whose figures are the run's `eval_results.jsonl`."""
REFERENCE = "reference"
_TRAINING = "training/"
_FINAL = "model/open_clip_model.safetensors"
_EPOCH = re.compile(r"models/epoch-(\d+)\.safetensors")
_MEAN_PER_CLASS = {"fgvc_aircraft", "vtab-caltech101", "vtab-flowers", "vtab-pets"}
"""Tasks that DataComp judges by mean recall a class, of very uneven classes."""
_GROUPS = ("fairness", "misc", "retrieval", "vtab", "wilds")
"""First parts of DataComp's task keys, which folders write with a dash instead of a slash."""
_RESULT_BYTES = 200
_READ_EARLY = 256 << 20
"""Bytes of evaluation sets that are read whole before anything starts."""


@dataclass(frozen=True)
class _Checkpoint:
    """One set of weights to evaluate."""

    model: str
    epoch: int | None
    """Of the training, from 0; None for its final model."""
    artifact: Artifact
    path: str


class EvaluateStage(Stage[EvaluateConfig]):
    """Runs every model over every data set; the same weights under two names are run once."""

    version: ClassVar[int] = 2
    takes: ClassVar[Mapping[str, Schema]] = {"training": MODEL, "reference": MODEL}
    gives: ClassVar[Schema] = DOCUMENTS

    def external(self) -> Mapping[str, External]:
        """The evaluation sets."""
        missing = "`gradsieve pool make` makes one for the demo; `evaluate: off` does without"
        return {"data": External(self.config.data, missing=missing)}

    def preflight(self, external: Mapping[str, ExternalFiles], storage: Storage) -> None:
        """Refuse evaluation sets that are not complete, and a device that is not there."""
        data_sets = find_data_sets(external["data"], storage)
        if sum(file.bytes for file in external["data"].files) <= _READ_EARLY:
            for data_set in data_sets:
                for _ in read_examples(data_set, storage):
                    pass  # a broken shard is told now, not after hours of training
        if self.config.device == "cuda":
            import torch  # paid for only where a device must be looked for

            if not torch.cuda.is_available():
                raise UserError("no CUDA device here", where="evaluate.device", next_step="use `device: cpu`")

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """A few figures a model; time depends on the evaluation sets, which are not read to plan."""
        del rates
        note = "final models" if self.config.every == "end" else "final and epoch-end models"
        return StagePlan(Size(0, _RESULT_BYTES * len(inputs)), partitions=len(inputs), note=note)

    def run(self, context: StageContext) -> StageResult:
        """One task a model; figures to `results.json`, and in DataComp's format by model."""
        from stages.evaluate_model import Evaluator, ModelFile  # torch

        data_sets = find_data_sets(context.external["data"], context.storage)
        checkpoints = _checkpoints(context.inputs, every_epoch=self.config.every == "epoch")
        files = [ModelFile(checkpoint.artifact, checkpoint.path) for checkpoint in checkpoints]
        distinct = {file.content: file for file in files}
        evaluator = Evaluator(self.config, tuple(data_sets), context.storage)
        found = context.engine.map(
            evaluator, list(distinct.values()), name="evaluate", unit="models", num_cpus=float(self.config.threads)
        )
        of_content = dict(zip(distinct, found, strict=True))
        measured = [(checkpoint, of_content[file.content]) for checkpoint, file in zip(checkpoints, files, strict=True)]
        final = {checkpoint.model: metrics for checkpoint, metrics in measured if checkpoint.epoch is None}
        entries = [context.output.put_json("results.json", _results(measured)), *_put_lines(context, final, data_sets)]
        return StageResult(tuple(entries), _summary(final, data_sets, len(distinct)))


def _checkpoints(inputs: Mapping[str, Artifact], *, every_epoch: bool) -> list[_Checkpoint]:
    """Final models by name, each behind its epoch-end ones.

    The training that made the reference is called by that name: they are one model.
    """
    found = []
    made_reference = _maker_of_reference(inputs)
    for role in sorted(inputs):
        artifact = inputs[role]
        name = REFERENCE if role == made_reference else role.removeprefix(_TRAINING)
        if every_epoch:
            ends = [match for file in artifact.files("models/") if (match := _EPOCH.fullmatch(file.path))]
            found += [_Checkpoint(name, int(match[1]), artifact, match[0]) for match in ends]
        if role != made_reference:
            found.append(_Checkpoint(name, None, artifact, _FINAL))
    return sorted(found, key=lambda one: (one.model, one.epoch is None, one.epoch or 0))


def _maker_of_reference(inputs: Mapping[str, Artifact]) -> str | None:
    """The role of the training whose final weights are the reference's."""
    if REFERENCE not in inputs:
        return None
    wanted = _digest(inputs[REFERENCE])
    others = (role for role in sorted(inputs) if role not in (REFERENCE, _TRAINING + STUDENT))
    return next((role for role in others if _digest(inputs[role]) == wanted), None)


def _digest(artifact: Artifact) -> str:
    return next(file.sha256 for file in artifact.manifest.files if file.path == _FINAL)


def main_metric(data_set: DataSet) -> str:
    """The metric by which DataComp judges a task."""
    if data_set.kind == "retrieval":
        return "mean_recall@1"
    return "mean_per_class_recall" if data_set.name in _MEAN_PER_CLASS else "acc1"


def _results(measured: "list[tuple[_Checkpoint, dict[str, dict[str, float]]]]") -> list[dict[str, Any]]:
    return [
        {"model": checkpoint.model, "epoch": checkpoint.epoch, "dataset": data_set, "metric": metric, "value": value}
        for checkpoint, by_data_set in measured
        for data_set, metrics in by_data_set.items()
        for metric, value in metrics.items()
    ]


def _put_lines(
    context: StageContext, final: Mapping[str, Mapping[str, Mapping[str, float]]], data_sets: list[DataSet]
) -> list[FileEntry]:
    """DataComp's lines: of the student at the top, of every model in its own folder."""
    entries = []
    for model, by_data_set in final.items():
        lines = _lines(by_data_set, data_sets)
        entries.append(context.output.put_bytes(f"models/{model}/eval_results.jsonl", lines))
        if model == STUDENT:
            entries.append(context.output.put_bytes("eval_results.jsonl", lines))
    return entries


def _lines(by_data_set: Mapping[str, Mapping[str, float]], data_sets: list[DataSet]) -> bytes:
    rows = [
        {
            "key": _key(data_set.name),
            "dataset": data_set.name,
            "metrics": {**by_data_set[data_set.name], "main_metric": by_data_set[data_set.name][main_metric(data_set)]},
        }
        for data_set in data_sets
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _key(name: str) -> str:
    group, dash, task = name.partition("-")
    return f"{group}/{task}" if dash and group in _GROUPS else name


def _summary(
    final: Mapping[str, Mapping[str, Mapping[str, float]]], data_sets: list[DataSet], num_evaluated: int
) -> dict[str, Any]:
    main = {
        model: {data_set.name: by_data_set[data_set.name][main_metric(data_set)] for data_set in data_sets}
        for model, by_data_set in final.items()
    }
    kinds = {
        data_set.name: {
            "kind": data_set.kind,
            "main_metric": main_metric(data_set),
            "classes": len(data_set.classes) or None,
        }
        for data_set in data_sets
    }
    return {"main_metric": main, "data_sets": kinds, "models_evaluated": num_evaluated}
