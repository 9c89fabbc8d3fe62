"""The probe: the same samples for any number of ranks, joined by uid with the reference's losses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifact import Artifact
from stages.models.build import build_model
from stages.train.loader import Loader
from stages.train.mimic import build_step
from stages.train.probe import LossDrops, Probe, ProbeResult, probe_table
from stages.train.ranks import Ranks
from stages.train.stage import loader_spec
from stages.train.task import Encoders
from tests.stages.train.test_stage import recipe
from tests.stages.train.tiny_pool import make_pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, str]:
    return make_pool(tmp_path_factory.mktemp("pool"), [11, 7, 13])


def probe(pool: tuple[Artifact, str], samples: int) -> Probe:
    loader = Loader(loader_spec(recipe(), pool[0], pool[1], 0), 0, 1)
    return Probe(loader, samples, Ranks(), torch.device("cpu"))


@pytest.mark.parametrize(("wanted", "found"), [(1, 12), (12, 12), (13, 24), (1000, 31)])
def test_probe_takes_whole_batches_up_to_the_pool(pool: tuple[Artifact, str], wanted: int, found: int) -> None:
    model = build_model(recipe().model, 0)
    step = build_step(Encoders(model), recipe(), reference=None, names=(), ranks=Ranks(), seed=0)
    results = probe(pool, wanted).measure(step, model.train())
    assert sum(len(result.losses) for result in results) == found
    assert model.training, "measuring must leave the model as it was"
    uids = {(hi, lo) for result in results for hi, lo in zip(result.uid_hi, result.uid_lo, strict=True)}
    assert len(uids) == found


def result(uids: list[int], losses: list[float], scores: list[float] | None = None) -> ProbeResult:
    hi, lo = np.zeros(len(uids), np.uint64), np.array(uids, np.uint64)
    return ProbeResult(hi, lo, np.array(losses), None if scores is None else np.array(scores))


def test_drops_are_joined_by_uid_in_whatever_order() -> None:
    before, after = [result([1, 2, 3], [1.0, 2.0, 3.0])], [result([1, 2, 3], [0.5, 2.5, 0.0])]
    drops = LossDrops.read(probe_table(before, after))
    assert drops.by_uid == {(0, 1): 0.5, (0, 2): -0.5, (0, 3): 3.0}
    assert drops.correlation([result([3, 1, 2], [0.0] * 3, [9.0, 2.0, -1.0])]).spearman == pytest.approx(1.0)
    assert drops.correlation([result([3, 1, 2], [0.0] * 3, [-9.0, 2.0, 7.0])]).spearman == pytest.approx(-1.0)


def test_drops_unknown_samples_are_left_out() -> None:
    drops = LossDrops.read(probe_table([result([1, 2], [1.0, 2.0])], [result([1, 2], [0.0, 0.0])]))
    found = drops.correlation([result([2, 7, 1], [0.0] * 3, [5.0, 100.0, 1.0])])
    assert found.samples == 2
    assert found.spearman == pytest.approx(1.0)


def test_probe_table_keeps_batches_apart(tmp_path: Path) -> None:
    before = [result([1, 2], [1.0, 2.0]), result([3], [3.0])]
    table = probe_table(before, before)
    assert table.column("batch").to_pylist() == [0, 0, 1]
    assert table.column("loss_theta_0").to_pylist() == [1.0, 2.0, 3.0]
