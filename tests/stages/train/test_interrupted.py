"""Order, loader, ledger, checkpoints, gather together: a training killed anywhere loses and repeats no row."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifact import Artifact, ArtifactWriter, FileEntry
from pipeline.config_base import Config
from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages.kernels.uid import hash_uniform
from stages.train.checkpoint import CheckpointStore
from stages.train.gather import GatherStage
from stages.train.ledger import Ledger
from stages.train.loader import Loader, LoaderSpec, LocalBatch
from stages.train.order import num_steps
from tests.artifacts import commit, run_stage
from tests.stages.models.tiny import TINY
from tests.stages.train.tiny_pool import make_pool

COUNTS = [6, 0, 11, 4, 8]
CHECKPOINT_EVERY = 3


class Killed(Exception):
    """The process ended here."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, str]:
    return make_pool(tmp_path_factory.mktemp("pool"), COUNTS)


def spec_of(pool: tuple[Artifact, str], *, replacement: bool) -> LoaderSpec:
    return LoaderSpec(
        pool=pool[0], pool_path=pool[1], model=TINY, seed=2, lanes=4, window=5, batch_size=8, replacement=replacement
    )


def attempt(root: Path, spec: LoaderSpec, world: int, *, kill_before: int | None = None) -> Artifact:
    """Train from the last checkpoint on; what is computed depends on sample and step alone."""
    writer = ArtifactWriter(str(root), Storage())
    store = CheckpointStore(writer)
    last = store.latest()
    step = last.step if last else 0
    parts: list[FileEntry] = list(last.ledger) if last else []
    loaders = [Loader(spec, rank, world) for rank in range(world)]
    ledgers = [Ledger(writer, rank) for rank in range(world)]
    total = num_steps(loaders[0].order, samples_seen=75)  # ends inside the third epoch
    batches = [_batches(loader, step) for loader in loaders]
    while step < total:
        if step == kill_before:
            raise Killed
        for ledger, stream in zip(ledgers, batches, strict=True):
            _record(ledger, step, next(stream))
        step += 1
        if step % CHECKPOINT_EVERY == 0 or step == total:
            parts += [part for ledger in ledgers if (part := ledger.cut())]
            files = [store.put(step, "state", str(step).encode())]
            epoch, batch = loaders[0].order.cursor(step)
            store.commit(step=step, epoch=epoch, batch=batch, world_size=world, files=files, ledger=parts)
    return commit(root, "training/mimic", StageResult(tuple(parts), {}))


def _batches(loader: Loader, step: int) -> Iterator[LocalBatch]:
    epoch, first = loader.order.cursor(step)
    while True:
        yield from loader.iterate(epoch, first)
        epoch, first = epoch + 1, 0


def _record(ledger: Ledger, step: int, batch: LocalBatch) -> None:
    own = batch.scored
    hi, lo = batch.uid_hi[own], batch.uid_lo[own]
    score, weight, loss = (hash_uniform(hi, lo, 3 * step + column) for column in range(3))
    ledger.append(step, uid_hi=hi, uid_lo=lo, visit=batch.visit[own], score=score, weight=weight, loss=loss)


def scores_of(root: Path, training: Artifact, pool: Artifact) -> Artifact:
    return run_stage(GatherStage(Config()), root, "scores/mimic", inputs={"pool": pool, "training": training})


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize(("world", "kills"), [(1, [1]), (1, [3]), (2, [2, 5, 5, 9]), (4, [7, 8])])
def test_killed_training_ends_in_the_bytes_of_an_undisturbed_one(
    pool: tuple[Artifact, str], tmp_path: Path, replacement: bool, world: int, kills: list[int]
) -> None:
    spec = spec_of(pool, replacement=replacement)
    straight = scores_of(tmp_path / "a", attempt(tmp_path / "straight", spec, world), pool[0])
    for kill in kills:
        with pytest.raises(Killed):
            attempt(tmp_path / "killed", spec, world, kill_before=kill)
    resumed = scores_of(tmp_path / "b", attempt(tmp_path / "killed", spec, world), pool[0])
    assert resumed.manifest.content == straight.manifest.content
    assert straight.summary["visits"] >= 3


def test_scores_do_not_depend_on_the_number_of_ranks(pool: tuple[Artifact, str], tmp_path: Path) -> None:
    spec = spec_of(pool, replacement=False)
    contents = [
        scores_of(tmp_path / f"s{world}", attempt(tmp_path / f"t{world}", spec, world), pool[0]).manifest.content
        for world in (1, 2, 4)
    ]
    assert len(set(contents)) == 1


def test_every_sample_is_scored_once_a_visit(pool: tuple[Artifact, str], tmp_path: Path) -> None:
    scores = scores_of(tmp_path / "s", attempt(tmp_path / "t", spec_of(pool, replacement=False), 2), pool[0])
    visits = np.concatenate([table["visit"].to_numpy() for table in scores.tables("bucket-")])
    assert np.bincount(visits).tolist() == [29, 29, 16]  # 10 steps: two epochs of 4 batches, 2 batches of 8
    assert scores.summary["coverage"] == 1.0
