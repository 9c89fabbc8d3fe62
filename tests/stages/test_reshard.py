import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import Artifact, Counts
from pipeline.engine import Engine
from pipeline.errors import RunError, UserError
from pipeline.rates import RatesConfig
from pipeline.stage import Size, StageResult
from stages import reshard
from stages.formats.npy import subset_bytes
from stages.kernels.uid import UID_DTYPE, parse_hex
from stages.pool import scan_task
from stages.pool.config import PoolConfig
from stages.pool.stage import PoolStage
from stages.reshard import KeptRows, ReshardStage, balanced_sizes, deal
from stages.reshard_config import ReshardConfig
from tests.artifacts import commit, context, listed, run_stage
from tests.stages.pool.pools import Pair, jpeg, pair, plain_pool, shard_bytes, uid_of, write_pool


def pool_of(root: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> Artifact:
    """Index `root/shards`; with `monkeypatch`, in an order part a shard."""
    if monkeypatch is not None:
        monkeypatch.setattr(scan_task, "_MIN_GROUP_BYTES", 1)
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


def test_run_member_names_and_their_order_are_the_original_ones(tmp_path: Path) -> None:
    pairs = plain_pool(tmp_path / "shards", num_shards=1, per_shard=3)
    artifact = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, [str(p.uid) for p in pairs]), shard_size=10)
    with tarfile.open(fileobj=io.BytesIO(artifact.read_bytes("00000000.tar"))) as tar:
        infos = tar.getmembers()
    assert [info.name for info in infos] == [name for item in pairs for name, _ in item.members()]
    assert {(info.mtime, info.uid, info.gid, info.uname) for info in infos} == {(0, 0, 0, "")}


def test_run_side_files_are_what_datacomp_and_open_clip_read(tmp_path: Path) -> None:
    pairs = plain_pool(tmp_path / "shards")
    artifact = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, [str(p.uid) for p in pairs[:25]]), shard_size=10)
    assert artifact.read_json("sizes.json") == {"00000000.tar": 9, "00000001.tar": 8, "00000002.tar": 8}
    assert [artifact.read_json(f"{n:08d}_stats.json") for n in range(3)] == [{"successes": n} for n in (9, 8, 8)]
    meta = artifact.read_json("meta.json")
    assert meta["output_shard_count"] == len(artifact.files(suffix=".tar")) == 3
    assert meta["output_shard_format"].format(2) == "00000002.tar"
    assert (meta["processed_count"], meta["output_count"]) == (48, 25)
    for name, count in artifact.read_json("sizes.json").items():
        assert len(read_like_webdataset(artifact.read_bytes(name))) == count
    assert artifact.summary["bytes"] == sum(file.bytes for file in artifact.files(suffix=".tar"))


def test_run_any_partition_of_pool_and_work_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = plain_pool(tmp_path / "shards")
    subset = subset_of(tmp_path, [str(item.uid) for item in pairs[::2]])
    whole = run(tmp_path, pool_of(tmp_path), subset, shard_size=7)
    monkeypatch.setattr(scan_task, "_MIN_GROUP_BYTES", 1)
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


def test_run_same_keys_from_two_folders_stay_apart(tmp_path: Path) -> None:
    first, second = pair(1), Pair(pair(1).key, uid_of(2), "another with the same key")
    write_pool(tmp_path / "shards", {"a/0.tar": shard_bytes([first]), "b/0.tar": shard_bytes([second, pair(3)])})
    uids = [uid_of(n) for n in (1, 2, 3)]
    artifact = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, uids), shard_size=10)
    found = samples_of(artifact)
    assert [json.loads(sample["json"])["uid"] for sample in found] == uids
    assert [sample["__key__"].decode() for sample in found] == [
        f"/{first.key}",
        f"{uid_of(2)}/{first.key}",
        f"/{pair(3).key}",
    ]
    assert artifact.summary["renamed"] == 1


def test_run_broken_and_duplicated_samples_never_come_back(tmp_path: Path) -> None:
    write_pool(
        tmp_path / "shards",
        {"0.tar": shard_bytes([pair(1), Pair("5", uid_of(5), None), Pair("6", uid_of(1), "again"), pair(2)])},
    )
    artifact = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, [uid_of(1), uid_of(2)]), shard_size=10)
    assert [sample["txt"].decode() for sample in samples_of(artifact)] == [pair(1).caption, pair(2).caption]


def test_run_uid_that_the_pool_has_not_is_an_error(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards", num_shards=1)
    subset = subset_of(tmp_path, [uid_of(1), uid_of(999)])
    with pytest.raises(RunError, match="not a part of the pool"):
        run(tmp_path, pool_of(tmp_path), subset, shard_size=10)


def test_run_unsorted_subset_is_refused(tmp_path: Path) -> None:
    pairs = plain_pool(tmp_path / "shards", num_shards=1)
    parsed = parse_hex(sorted((str(item.uid) for item in pairs), reverse=True))
    records = np.empty(len(pairs), UID_DTYPE)
    records["f0"], records["f1"] = parsed.hi, parsed.lo
    sink = io.BytesIO()
    np.save(sink, records)
    subset = subset_of(tmp_path, [str(item.uid) for item in pairs], sink.getvalue())
    with pytest.raises(UserError, match="not sorted"):
        run(tmp_path, pool_of(tmp_path), subset, shard_size=10)


def test_run_shard_that_was_cut_after_indexing_is_an_error(tmp_path: Path) -> None:
    pairs = plain_pool(tmp_path / "shards", num_shards=1)
    pool = pool_of(tmp_path)
    path = tmp_path / "shards/00000000.tar"
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(RunError, match="shorter than its index says"):
        run(tmp_path, pool, subset_of(tmp_path, [str(item.uid) for item in pairs]), shard_size=10)


def test_run_empty_subset_gives_no_shards(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards", num_shards=1)
    artifact = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, []), shard_size=10)
    assert [file.path for file in artifact.files()] == ["meta.json", "sizes.json"]
    assert artifact.read_json("meta.json")["output_shard_count"] == 0


@settings(deadline=None)
@given(num_samples=st.integers(0, 10**5), shard_size=st.integers(1, 10**4))
def test_balanced_sizes_differ_by_at_most_one(num_samples: int, shard_size: int) -> None:
    sizes = balanced_sizes(num_samples, shard_size)
    assert sum(sizes) == num_samples
    assert max(sizes, default=0) <= shard_size
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert len(sizes) == -(-num_samples // shard_size)


@settings(deadline=None)
@given(masks=st.lists(st.lists(st.booleans(), max_size=40), max_size=6), shard_size=st.integers(1, 30))
def test_deal_any_masks_gives_each_kept_row_to_one_shard_in_order(masks: list[list[bool]], shard_size: int) -> None:
    kept = [KeptRows.of(f"part-{n}", 0, np.array(mask, np.bool_)) for n, mask in enumerate(masks)]
    expected = [(f"part-{n}", row) for n, mask in enumerate(masks) for row, keep in enumerate(mask) if keep]
    sizes = balanced_sizes(len(expected), shard_size)
    outputs = deal(kept, sizes)
    assert [shard.num_samples for shard in outputs] == sizes
    dealt: list[Any] = [
        (piece.path, piece.first_row + int(row))
        for shard in outputs
        for piece in shard.pieces
        for row in np.flatnonzero(piece.unpacked())
    ]
    assert dealt == expected


def test_stage_takes_the_pools_shards_without_hashing_them_again(tmp_path: Path) -> None:
    declared = ReshardStage(ReshardConfig(), pool_path=str(tmp_path)).external()["shards"]
    assert not declared.identity


def test_plan_scales_with_the_subset() -> None:
    stage = ReshardStage(ReshardConfig(shard_size=10_000), pool_path="p")
    rates = RatesConfig().model_dump()
    plan = stage.plan({"pool": Size(128_000_000, 0), "subset": Size(38_400_000, 0)}, rates)
    assert plan.partitions == 3840
    assert plan.output.rows == 38_400_000
    assert plan.peak_task_bytes < 2 << 30


def test_config_refuses_shards_of_no_sample() -> None:
    with pytest.raises(ValueError):
        ReshardConfig(shard_size=0)
