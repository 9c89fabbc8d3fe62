"""An interrupted pool stage goes on; a shard that changes meanwhile is told."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RunError
from pipeline.storage import Storage
from stages.pool import scan_task
from stages.pool.config import PoolConfig
from stages.pool.stage import PoolStage
from tests.artifacts import run_stage
from tests.stages.pool.indexing import external, index
from tests.stages.pool.pools import (
    ill_pool,
    pair,
    plain_pool,
    shard_bytes,
    write_pool,
)


def test_run_interrupted_goes_on_without_reading_shards_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_pool(tmp_path / "shards")
    undisturbed = index(tmp_path, out="undisturbed")
    with monkeypatch.context() as patch:
        patch.setattr("stages.pool.stage.index_bucket", lambda *_, **__: 1 / 0)
        with pytest.raises(RunError, match="index"):
            index(tmp_path)

    def no_reading(*_: object) -> None:
        raise AssertionError("a shard was read again")

    monkeypatch.setattr(scan_task, "scan_shard", no_reading)
    assert index(tmp_path).manifest.content == undisturbed.manifest.content


@pytest.mark.parametrize("after", [1, 2])
def test_run_killed_between_shards_reads_only_the_others_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    ill_pool(tmp_path)
    monkeypatch.setattr("stages.kernels.grouping._LEAST_BYTES", 1)
    undisturbed = index(tmp_path, out="undisturbed", bucket_rows=8)
    read: list[int] = []
    whole = scan_task.scan_shard

    def counted(storage: Storage, shard: Any, check: Any) -> Any:
        if len(read) == after and not resumed:
            raise KeyboardInterrupt
        read.append(shard.number)
        return whole(storage, shard, check)

    monkeypatch.setattr(scan_task, "scan_shard", counted)
    resumed = False
    with pytest.raises(KeyboardInterrupt):
        index(tmp_path, bucket_rows=8)
    resumed = True
    assert index(tmp_path, bucket_rows=8).manifest.content == undisturbed.manifest.content
    assert sorted(read) == [0, 1, 2]


def test_run_shard_that_changes_after_listing_is_an_error(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards", num_shards=1)
    stage = PoolStage(PoolConfig(path=str(tmp_path / "shards")))
    files = external(stage)
    write_pool(tmp_path / "shards", {"00000000.tar": shard_bytes([pair(1)])})
    with pytest.raises(RunError, match="changed while it was read"):
        run_stage(stage, tmp_path / "out", "pool", external=files)
