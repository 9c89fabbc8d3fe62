"""One lineage of trainings for all tests that need one: base, tuned on trusted samples, reference."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from pipeline.artifact import Artifact
from tests.stages.train.test_stage import COUNTS, recipe, refer, reference_config, train
from tests.stages.train.tiny_pool import make_pool, uid_of


class Lineage(NamedTuple):
    pool: tuple[Artifact, str]
    trusted: Path
    base: Artifact
    tuned: Artifact
    reference: Artifact


@pytest.fixture(scope="session")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    root = tmp_path_factory.mktemp("lineage")
    pool = make_pool(root / "pool", COUNTS)
    trusted = root / "trusted.npy"
    np.save(trusted, np.array([uid_of(number) for number in range(0, 31, 2)], dtype="u8,u8"))
    base = train(root / "base", pool, recipe(epochs=2), "training/base")
    tuned = train(root / "tuned", pool, recipe(epochs=3), "training/tuned", init=base, samples=str(trusted))
    reference = refer(root / "reference", pool, reference_config(), recipe(method="mimic"), init=base, weights=tuned)
    return Lineage(pool, trusted, base, tuned, reference)
