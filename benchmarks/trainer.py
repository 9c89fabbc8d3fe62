"""Our own trainer as benchmarks run it: `stages.train.loop.train` in a plain process, no Ray, no stage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.scale.artifacts import committed
from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.storage import Storage
from stages.models.build import build_model
from stages.models.config import ModelConfig
from stages.models.weights import model_files
from stages.train.config import TrainConfig
from stages.train.loop import train
from stages.train.notice import Notice
from stages.train.ranks import Ranks
from stages.train.spec import Standing, TrainSpec
from stages.train.stage import loader_spec

SMALL = ModelConfig(
    embed_dim=256,
    vision_cfg={"width": 192, "head_width": 64, "layers": 6, "image_size": 224, "patch_size": 32},
    text_cfg={"width": 128, "heads": 2, "layers": 4, "context_length": 77},
)
"""Small enough that loading a picture costs about as much as learning from it."""
TINY = ModelConfig(
    embed_dim=16,
    vision_cfg={"width": 32, "head_width": 16, "layers": 2, "image_size": 32, "patch_size": 16},
    text_cfg={"width": 16, "heads": 2, "layers": 2, "context_length": 16},
)
"""Hardly any arithmetic: what else a training does is seen."""


class Steps:
    """Progress that calls back after each step; warnings are of no interest here."""

    def __init__(self, after_step: Callable[[], None]) -> None:
        self._after_step = after_step

    def stand(self, standing: Standing) -> None:
        del standing
        self._after_step()

    def warn(self, text: str) -> None:
        del text

    def committed(self, step: int, loss: float) -> None:
        del step, loss

    def notice(self) -> Notice:
        return Notice.NONE


def put_reference(root: Path, model: ModelConfig) -> Artifact:
    """Weights to mimic: random ones, which cost what any others do."""
    writer = ArtifactWriter(str(root), Storage())
    files = [
        writer.put_bytes(f"model/{name}", data) for name, data in model_files(build_model(model, 1), model).items()
    ]
    return committed(root, "reference", files, {}, 0)


def run_training(
    gate: Any, pool: tuple[Artifact, str], config: TrainConfig, reference: Artifact | None, folder: str
) -> None:
    """Train in this rank; with a reference, scores are kept in the ledger."""
    output = ArtifactWriter(folder, Storage())
    spec = TrainSpec(config, 0, loader_spec(config, *pool, seed=0), output, "benchmark", reference=reference)
    train(spec, Ranks.current(), torch.device("cpu"), Steps(gate.passed if gate is not None else lambda: None))
