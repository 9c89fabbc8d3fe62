"""Index a pool, choose from it, reshard, and read the shards as others do."""

import io
import tarfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pytest

from pipeline.artifact import Artifact, Counts
from pipeline.engine import Engine
from pipeline.stage import StageResult
from stages.formats.npy import subset_bytes
from stages.kernels.uid import parse_hex
from stages.pool.config import PoolConfig
from stages.pool.stage import PoolStage
from stages.reshard import ReshardStage
from stages.reshard_config import ReshardConfig
from tests.artifacts import commit, context, listed, run_stage


def pool_of(root: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> Artifact:
    """Index `root/shards`; with `monkeypatch`, in an order part a shard."""
    if monkeypatch is not None:
        monkeypatch.setattr("stages.kernels.grouping._LEAST_BYTES", 1)
    stage = PoolStage(PoolConfig(path=str(root / "shards"), max_quarantined=1.0, bucket_rows=10))
    return run_stage(stage, root / "pool", "pool", external={"shards": listed(root / "shards", ".tar")})


def subset_of(root: Path, uids: Sequence[str], data: bytes | None = None) -> Artifact:
    parsed = parse_hex(sorted(uids))
    made = context(root / "subset").output
    entry = made.put_bytes("sample_ids.npy", data or subset_bytes(parsed.hi, parsed.lo), rows=len(uids))
    return commit(root / "subset", "subset", StageResult((entry,), {}, Counts(len(uids), len(uids))))


def run(
    root: Path, pool: Artifact, subset: Artifact, *, shard_size: int, out: str = "out", engine: Engine | None = None
) -> Artifact:
    path = str(root / "shards")
    stage = ReshardStage(ReshardConfig(shard_size=shard_size), pool_path=path)
    external = {role: listed(found.uri, found.suffix) for role, found in stage.external().items()}
    inputs = {"pool": pool, "subset": subset}
    return run_stage(stage, root / out, "shards", inputs=inputs, external=external, engine=engine)


def read_like_webdataset(data: bytes) -> list[dict[str, bytes]]:
    """Consecutive members with the same name up to the first dot, by Python's own tar reader."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]

    def key(member: tuple[str, bytes]) -> str:
        folder, _, base = member[0].rpartition("/")
        return f"{folder}/{base.split('.')[0]}"

    return [
        {"__key__": name.encode(), **{n.rpartition("/")[2].partition(".")[2]: d for n, d in group}}
        for name, group in groupby(files, key)
    ]


def samples_of(artifact: Artifact) -> list[dict[str, bytes]]:
    return [s for file in artifact.files(suffix=".tar") for s in read_like_webdataset(artifact.read_bytes(file.path))]


def digests(artifact: Artifact) -> list[tuple[str, str]]:
    return [(file.path, file.sha256) for file in artifact.files()]
