"""One lineage of trainings for all tests that need one: base, tuned on trusted samples, reference."""

from typing import NamedTuple

import pytest

from pipeline.artifact import Artifact
from tests.stages.train.test_stage import COUNTS, recipe, refer, reference_config, train
from tests.stages.train.tiny_pool import make_pool
from tests.stages.train.trusted_subset import trusted_subset


class Lineage(NamedTuple):
    pool: tuple[Artifact, str]
    trusted: Artifact
    base: Artifact
    tuned: Artifact
    reference: Artifact


@pytest.fixture(scope="session")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    root = tmp_path_factory.mktemp("lineage")
    pool = make_pool(root / "pool", COUNTS)
    trusted = trusted_subset(root / "trusted", pool[0], range(0, 31, 2))
    base = train(root / "base", pool, recipe(epochs=2), "training/base")
    tuned = train(root / "tuned", pool, recipe(epochs=3), "training/tuned", init=base, subset=trusted)
    reference = refer(root / "reference", pool, reference_config(), recipe(method="mimic"), init=base, weights=tuned)
    return Lineage(pool, trusted, base, tuned, reference)
