"""Run the pool stage on a folder, and read what it made."""

from pathlib import Path
from typing import Any

from pipeline.artifact import Artifact
from pipeline.engine import Engine
from pipeline.stage import ExternalFiles
from stages.pool.config import PoolConfig
from stages.pool.stage import PoolStage
from tests.artifacts import listed, run_stage


def external(stage: PoolStage) -> dict[str, ExternalFiles]:
    return {role: listed(found.uri, found.suffix) for role, found in stage.external().items()}


def index(
    root: Path,
    *,
    out: str = "out",
    store: str | None = None,
    engine: Engine | None = None,
    seed: int = 0,
    **config: Any,
) -> Artifact:
    """Run the stage on `root/shards`, and `root/meta` if it is there; entries lie in its own folder by default."""
    metadata = str(root / "meta") if (root / "meta").exists() else None
    full = {"path": str(root / "shards"), "metadata": metadata, "max_quarantined": 1.0, **config}
    stage = PoolStage(PoolConfig(**full))
    return run_stage(
        stage, root / out, "pool", external=external(stage), engine=engine, seed=seed, store=root / (store or out)
    )


def rows(artifact: Artifact, folder: str = "index") -> list[dict[str, Any]]:
    found = [row for table in artifact.tables(f"{folder}/") for row in table.to_pylist()]
    return [{"uid": f"{row.pop('uid_hi'):016x}{row.pop('uid_lo'):016x}", **row} for row in found]


def quarantined(artifact: Artifact) -> list[tuple[str, int, str]]:
    paths = artifact.read_table("shards.parquet")["path"].to_pylist()
    table = artifact.read_table("quarantine.parquet")
    return [(paths[row["shard"]], row["offset"], row["reason"]) for row in table.to_pylist()]
