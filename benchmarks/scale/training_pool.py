"""A pool to train on: generated shards, indexed by the pool stage itself."""

from pathlib import Path

from benchmarks.scale.artifacts import commit
from benchmarks.scale.shards import Pictures, put_shards
from benchmarks.scale.uids import Uids
from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.progress import Reporter
from pipeline.reuse import Entries
from pipeline.stage import ExternalFiles, StageContext
from pipeline.storage import Storage
from stages.pool.config import PoolConfig
from stages.pool.stage import PoolStage


def put_training_pool(
    root: Path, uids: Uids, *, shard_size: int, pictures: Pictures, seed: int = 0
) -> tuple[Artifact, str]:
    """The pool artifact, and the folder of its shards."""
    shards = root / "shards"
    put_shards(shards, uids, shard_size=shard_size, pictures=pictures)
    storage, reporter = Storage(), Reporter()
    stage = PoolStage(PoolConfig(path=str(shards), check="headers"))
    external = {
        role: ExternalFiles(found.uri, tuple(storage.list(found.uri, suffix=found.suffix)))
        for role, found in stage.external().items()
    }
    context = StageContext(
        inputs={},
        external=external,
        output=ArtifactWriter(str(root / "pool"), storage),
        storage=storage,
        engine=Engine(ClusterConfig(executor="in_process"), reporter),
        reporter=reporter,
        seed=seed,
        entries={kind: Entries.of(str(root / "pool"), kind, storage) for kind in stage.keeps},
    )
    return commit(root / "pool", "pool", stage.run(context)), str(shards)
