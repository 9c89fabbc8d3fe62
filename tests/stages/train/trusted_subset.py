"""The trusted subset of a tiny pool, as the stage behind the pool makes it."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.artifact import Artifact
from pipeline.config_base import Config
from stages.train.trusted import TrustedStage
from tests.artifacts import listed, run_stage
from tests.stages.train.tiny_pool import uid_of


def trusted_list(path: Path, numbers: Iterable[int]) -> Path:
    """A subset file of the samples of these numbers, sorted."""
    np.save(path, np.sort(np.array([uid_of(number) for number in numbers], dtype="u8,u8")))
    return path


def trusted_subset(root: Path, pool: Artifact, numbers: Iterable[int]) -> Artifact:
    """Samples of these numbers."""
    root.mkdir(parents=True, exist_ok=True)
    path = trusted_list(root / "trusted.npy", numbers)
    external = {"listed": listed(path)}
    stage = TrustedStage(Config(), listed=str(path))
    return run_stage(stage, root / "subset", "subset_trusted", inputs={"pool": pool}, external=external)
