"""Kept samples as shards: each once, its own bytes, the same for any partition of the work."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from pipeline.engine import Engine
from pipeline.rates import RatesConfig
from pipeline.stage import Size
from stages import reshard
from stages.pool.config import PoolConfig
from stages.pool.stage import PoolStage
from stages.reshard import ReshardStage
from stages.reshard_config import ReshardConfig
from tests.artifacts import listed, run_stage
from tests.stages.pool.pools import Pair, jpeg, pair, plain_pool, shard_bytes, uid_of, write_pool
from tests.stages.resharding import digests, pool_of, run, samples_of, subset_of


def test_run_each_kept_sample_is_there_once_with_its_own_bytes_in_pool_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = plain_pool(tmp_path / "shards")
    kept = [item for number, item in enumerate(pairs) if number % 3 != 1]
    pool = pool_of(tmp_path, monkeypatch)
    artifact = run(tmp_path, pool, subset_of(tmp_path, [str(item.uid) for item in kept]), shard_size=10)
    found = samples_of(artifact)
    assert [json.loads(sample["json"])["uid"] for sample in found] == [item.uid for item in kept]
    assert [sample["jpg"] for sample in found] == [item.image for item in kept]
    assert [sample["txt"].decode() for sample in found] == [item.caption for item in kept]
    counts = artifact.manifest.counts
    assert counts is not None
    assert (counts.seen, counts.out) == (32, 32)
    assert artifact.summary["samples"] == 32


def test_run_any_partition_of_pool_and_work_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = plain_pool(tmp_path / "shards")
    subset = subset_of(tmp_path, [str(item.uid) for item in pairs[::2]])
    whole = run(tmp_path, pool_of(tmp_path), subset, shard_size=7)
    monkeypatch.setattr("stages.kernels.grouping._LEAST_BYTES", 1)
    monkeypatch.setattr("stages.pool.order._ROW_GROUP", 3)
    monkeypatch.setattr(reshard, "_GROUP_ROWS", 1)
    monkeypatch.setattr(reshard, "_SLICE_RECORDS", 5)
    stage = PoolStage(PoolConfig(path=str(tmp_path / "shards"), bucket_rows=10))
    parted = run_stage(stage, tmp_path / "parted", "pool", external={"shards": listed(tmp_path / "shards", ".tar")})
    assert len(parted.files("order/")) == 4
    assert digests(run(tmp_path, parted, subset, shard_size=7, out="again")) == digests(whole)


@pytest.mark.ray
def test_run_on_ray_gives_the_same_bytes(tmp_path: Path, ray_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = plain_pool(tmp_path / "shards")
    subset = subset_of(tmp_path, [str(item.uid) for item in pairs[::2]])
    pool = pool_of(tmp_path, monkeypatch)
    alone = run(tmp_path, pool, subset, shard_size=5)
    assert digests(run(tmp_path, pool, subset, shard_size=5, out="ray", engine=ray_engine)) == digests(alone)


def test_run_archive_equals_what_pythons_tarfile_writes(tmp_path: Path) -> None:
    pool = [Pair("000000000007", uid_of(7), "seven", jpeg(8, 8))]
    write_pool(tmp_path / "shards", {"0.tar": shard_bytes(pool)})
    artifact = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, [uid_of(7)]), shard_size=1)
    data = artifact.read_bytes("00000000.tar")
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in pool[0].members():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o444
            tar.addfile(info, io.BytesIO(content))
    assert hashlib.sha256(data).hexdigest() == hashlib.sha256(expected.getvalue()).hexdigest()


def test_run_broken_and_duplicated_samples_never_come_back(tmp_path: Path) -> None:
    write_pool(
        tmp_path / "shards",
        {"0.tar": shard_bytes([pair(1), Pair("5", uid_of(5), None), Pair("6", uid_of(1), "again"), pair(2)])},
    )
    artifact = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, [uid_of(1), uid_of(2)]), shard_size=10)
    assert [sample["txt"].decode() for sample in samples_of(artifact)] == [pair(1).caption, pair(2).caption]


def test_run_empty_subset_gives_no_shards(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards", num_shards=1)
    artifact = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, []), shard_size=10)
    assert [file.path for file in artifact.files()] == ["meta.json", "sizes.json"]
    assert artifact.read_json("meta.json")["output_shard_count"] == 0


def test_stage_takes_the_pools_shards_without_hashing_them_again(tmp_path: Path) -> None:
    declared = ReshardStage(ReshardConfig(), pool_path=str(tmp_path)).external()["shards"]
    assert not declared.identity


def test_plan_scales_with_the_subset() -> None:
    stage = ReshardStage(ReshardConfig(shard_size=10_000), pool_path="p")
    rates = RatesConfig().model_dump()
    plan = stage.plan({"pool": Size(128_000_000, 0), "subset": Size(38_400_000, 0)}, rates)
    assert plan.partitions == 3840 + 64, "2M rows of the pool are looked up by one task"
    assert plan.output.rows == 38_400_000
    assert plan.peak_task_bytes < 2 << 30


def test_run_output_is_a_pool_that_reshards_to_itself(tmp_path: Path) -> None:
    pairs = plain_pool(tmp_path / "shards")
    uids = [str(item.uid) for item in pairs[1::3]]
    first = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, uids), shard_size=6)
    again = tmp_path / "again"
    write_pool(again / "shards", {file.path: first.read_bytes(file.path) for file in first.files(suffix=".tar")})
    pool = pool_of(again)
    assert (pool.summary["usable"], pool.summary["quarantined"], pool.summary["shard_faults"]) == (16, 0, {})
    second = run(again, pool, subset_of(again, uids), shard_size=6)
    assert [d for d in digests(second) if d[0] != "meta.json"] == [d for d in digests(first) if d[0] != "meta.json"]


def test_run_pool_that_was_moved_since_it_was_indexed_is_found(tmp_path: Path) -> None:
    pairs = plain_pool(tmp_path / "shards", num_shards=2)
    pool, subset = pool_of(tmp_path), subset_of(tmp_path, [str(item.uid) for item in pairs])
    before = digests(run(tmp_path, pool, subset, shard_size=9))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "shards").rename(tmp_path / "elsewhere/shards")
    stage = ReshardStage(ReshardConfig(shard_size=9), pool_path=str(tmp_path / "elsewhere/shards"))
    external = {"shards": listed(tmp_path / "elsewhere/shards", ".tar")}
    moved = run_stage(stage, tmp_path / "moved", "s", inputs={"pool": pool, "subset": subset}, external=external)
    assert digests(moved) == before


def test_run_pool_of_a_single_tar_is_resharded(tmp_path: Path) -> None:
    write_pool(tmp_path / "shards", {"one.tar": shard_bytes([pair(1), pair(2)])})
    path = tmp_path / "shards/one.tar"
    stage = PoolStage(PoolConfig(path=str(path)))
    pool = run_stage(stage, tmp_path / "pool", "pool", external={"shards": listed(path)})
    reshard_stage = ReshardStage(ReshardConfig(shard_size=1), pool_path=str(path))
    inputs = {"pool": pool, "subset": subset_of(tmp_path, [uid_of(1), uid_of(2)])}
    artifact = run_stage(reshard_stage, tmp_path / "out", "s", inputs=inputs, external={"shards": listed(path)})
    assert [sample["jpg"] for sample in samples_of(artifact)] == [pair(1).image, pair(2).image]


def test_run_leaves_nothing_in_the_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    pairs = plain_pool(tmp_path / "shards", num_shards=1)
    run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, [str(item.uid) for item in pairs]), shard_size=5)
    assert list(temporary.iterdir()) == []
