"""The pool's index: every sample where it lies, the same for any partition of the work."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.artifact import Artifact
from pipeline.engine import Engine
from pipeline.rates import RatesConfig
from pipeline.schema import ORDER, POOL
from pipeline.stage import ExternalFiles
from stages.formats.tar import read_members
from stages.kernels.buckets import bucket_path
from stages.pool.config import PoolConfig
from stages.pool.stage import PoolStage
from tests.artifacts import run_stage
from tests.stages.pool.indexing import external, index, rows
from tests.stages.pool.pools import (
    ill_pool,
    pair,
    plain_pool,
    shard_bytes,
    write_metadata,
    write_pool,
)


def test_run_plain_pool_indexes_every_sample_where_it_lies(tmp_path: Path) -> None:
    pairs = {item.uid: item for item in plain_pool(tmp_path / "shards")}
    artifact = index(tmp_path, bucket_rows=10)
    paths = artifact.read_table("shards.parquet")["path"].to_pylist()
    found = rows(artifact)
    assert len(found) == len(pairs) == 48
    for row in found:
        item = pairs[row["uid"]]
        assert item.caption is not None
        assert item.image is not None
        shard = (tmp_path / "shards" / paths[row["shard"]]).read_bytes()
        assert read_members(shard[row["offset"] : row["offset"] + row["length"]]) == item.members()
        assert (row["key"], row["image_ext"], row["bytes"]) == (item.key, "jpg", len(item.image))
        assert (row["text_len"], row["words"]) == (len(item.caption), len(item.caption.split()))
        assert (row["width"], row["height"]) == (24 + int(item.key[5:]) % 5, 16)


def test_run_cuts_the_index_at_uid_prefixes(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards")
    artifact = index(tmp_path, bucket_rows=10)
    bits = artifact.summary["bucket_bits"]
    assert bits == 3
    for folder in ("index", "missing"):
        assert [f.path for f in artifact.files(f"{folder}/")] == [bucket_path(b, folder) for b in range(8)]
    for bucket in range(8):
        table = artifact.read_table(bucket_path(bucket, "index"))
        POOL.check(table, "index")
        uids = [row["uid_hi"] << 64 | row["uid_lo"] for row in table.to_pylist()]
        assert uids == sorted(uids)
        assert {uid >> (128 - bits) for uid in uids} <= {bucket}


def test_run_order_lists_the_same_samples_by_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_pool(tmp_path / "shards")
    monkeypatch.setattr("stages.kernels.grouping._LEAST_BYTES", 60_000)
    artifact = index(tmp_path, bucket_rows=10)
    parts = artifact.files("order/")
    assert [part.path for part in parts] == ["order/part-00000.parquet", "order/part-00001.parquet"]
    table = pa.concat_tables(artifact.tables("order/"))
    ORDER.check(table, "order")
    places = [(row["shard"], row["offset"]) for row in table.to_pylist()]
    assert places == sorted(places)
    assert {(r["uid"], r["shard"], r["offset"], r["length"]) for r in rows(artifact, "order")} == {
        (r["uid"], r["shard"], r["offset"], r["length"]) for r in rows(artifact)
    }


def test_run_shards_table_says_what_was_read(tmp_path: Path) -> None:
    import hashlib

    plain_pool(tmp_path / "shards", num_shards=2)
    found = index(tmp_path).read_table("shards.parquet").to_pylist()
    data = (tmp_path / "shards/00000001.tar").read_bytes()
    assert found[1] == {
        "shard": 1,
        "path": "00000001.tar",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "seen": 12,
        "usable": 12,
        "fault": None,
    }


def test_run_nested_folders_and_gaps_in_numbers_are_fine(tmp_path: Path) -> None:
    write_pool(
        tmp_path / "shards",
        {"b/00000007.tar": shard_bytes([pair(1)]), "a/00000000.tar": shard_bytes([pair(2)]), "a/skip.parquet": b"x"},
    )
    artifact = index(tmp_path)
    assert artifact.read_table("shards.parquet")["path"].to_pylist() == ["a/00000000.tar", "b/00000007.tar"]
    assert artifact.summary["usable"] == 2


def test_run_a_single_tar_is_a_pool(tmp_path: Path) -> None:
    write_pool(tmp_path / "shards", {"one.tar": shard_bytes([pair(1), pair(2)])})
    artifact = index(tmp_path, path=str(tmp_path / "shards/one.tar"))
    assert artifact.summary["usable"] == 2


def test_run_other_partition_of_the_work_gives_the_same_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = plain_pool(tmp_path / "shards")
    write_metadata(tmp_path / "meta", "a.parquet", [p.uid for p in pairs[:30]], score=np.arange(30.0))
    write_metadata(tmp_path / "meta", "b.parquet", [p.uid for p in pairs[30:]], score=np.arange(18.0))
    whole = index(tmp_path, bucket_rows=10)
    monkeypatch.setattr("stages.kernels.grouping._LEAST_BYTES", 1)
    monkeypatch.setattr("stages.pool.metadata._GROUP_BYTES", 1)
    parted = index(tmp_path, bucket_rows=10, out="parted")
    assert len(parted.files("order/")) == 4

    def digests(artifact: Artifact) -> list[tuple[str, str]]:
        return [(f.path, f.sha256) for f in artifact.manifest.files if not f.path.startswith("order/")]

    assert digests(parted) == digests(whole)
    assert parted.summary == whole.summary
    assert rows(parted, "order") == rows(whole, "order")


@pytest.mark.ray
def test_run_on_ray_gives_the_same_artifact(
    tmp_path: Path, ray_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = plain_pool(tmp_path / "shards")
    write_metadata(tmp_path / "meta", "a.parquet", [p.uid for p in pairs], score=np.arange(48.0))
    monkeypatch.setattr("stages.kernels.grouping._LEAST_BYTES", 1)
    alone = index(tmp_path, bucket_rows=10)
    spread = index(tmp_path, bucket_rows=10, out="ray", engine=ray_engine)
    assert spread.manifest.content == alone.manifest.content


def test_external_missing_pool_names_the_command() -> None:
    declared = PoolStage(PoolConfig(path="nowhere", metadata="m")).external()
    assert "gradsieve pool make data/demo" in declared["shards"].missing
    assert (declared["shards"].suffix, declared["metadata"].suffix) == (".tar", ".parquet")


def test_run_trial_reads_a_share_of_the_shards(tmp_path: Path) -> None:
    pairs = plain_pool(tmp_path / "shards", num_shards=8, per_shard=2)
    write_metadata(tmp_path / "meta", "a.parquet", [item.uid for item in pairs])
    drawn = {
        share: set(index(tmp_path, out=f"s{share}", sample=share).read_table("shards.parquet")["path"].to_pylist())
        for share in (0.01, 0.25, 0.5, 1.0)
    }
    assert [len(paths) for paths in drawn.values()] == [1, 2, 4, 8]
    assert drawn[0.01] < drawn[0.25] < drawn[0.5] < drawn[1.0]
    other = {
        p
        for s in range(1, 4)
        for p in index(tmp_path, out=f"o{s}", sample=0.01, seed=s).read_table("shards.parquet")["path"].to_pylist()
    }
    assert other - drawn[0.01]
    assert index(tmp_path, out="again", sample=0.25).summary["missing"] == 0


def test_run_content_depends_on_bytes_and_not_on_times(tmp_path: Path) -> None:
    import os

    plain_pool(tmp_path / "shards", num_shards=1)
    first = index(tmp_path).manifest.content
    os.utime(tmp_path / "shards/00000000.tar", (1, 1))
    assert index(tmp_path, out="later").manifest.content == first
    data = bytearray((tmp_path / "shards/00000000.tar").read_bytes())
    data[136] = data[136] ^ 1  # one digit of a time that no sample depends on, and its checksum
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:512]) + 8 * 32)
    (tmp_path / "shards/00000000.tar").write_bytes(bytes(data))
    changed = index(tmp_path, out="changed")
    assert changed.summary["usable"] == 12
    assert changed.manifest.content != first


def test_run_unexpected_size_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain_pool(tmp_path / "shards", num_shards=1)
    index(tmp_path, expected_samples=100)
    assert "12 samples, where pool.expected_samples says 100" in " ".join(capsys.readouterr().err.split())


def test_config_place_and_expectation_are_no_part_of_the_identity() -> None:
    one = PoolConfig(path="a", metadata="b", expected_samples=5)
    assert one.identity() == PoolConfig(path="c").identity()
    assert one.identity() != PoolConfig(path="a", check="headers").identity()


@pytest.mark.parametrize("bad", [{"sample": 0.0}, {"sample": 1.5}, {"max_quarantined": -0.1}, {"check": "all"}])
def test_config_out_of_range_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        PoolConfig(path="a", **bad)


def test_plan_paper_scale_is_bounded_in_memory() -> None:
    rates = RatesConfig().model_dump()
    plan = PoolStage(PoolConfig(path="p", expected_samples=128_000_000)).plan({}, rates)
    assert plan.output.rows == 128_000_000
    assert plan.peak_task_bytes < 4 << 30
    assert plan.partitions > 1000
    trial = PoolStage(PoolConfig(path="p", expected_samples=128_000_000, sample=0.01)).plan({}, rates)
    assert trial.output.rows == 1_280_000
    assert trial.cpu_hours < plan.cpu_hours / 50
    assert "expected_samples" in PoolStage(PoolConfig(path="p")).plan({}, rates).note


def test_summary_is_plain_json(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards", num_shards=1)
    assert (
        json.load(io.BytesIO((tmp_path / "out" / "manifest.json").read_bytes() if index(tmp_path) else b"")) is not None
    )


def test_run_seed_says_nothing_where_all_shards_are_read(tmp_path: Path) -> None:
    ill_pool(tmp_path)
    contents = {index(tmp_path, out=f"s{seed}", seed=seed).manifest.content for seed in (0, 1)}
    assert len(contents) == 1


def test_run_headers_and_decode_agree_on_whole_images(tmp_path: Path) -> None:
    ill_pool(tmp_path)
    decoded, trusted = (index(tmp_path, out=check, check=check) for check in ("decode", "headers"))
    assert decoded.manifest.content == trusted.manifest.content


def test_run_shards_are_numbered_by_path_and_not_by_listing(tmp_path: Path) -> None:
    ill_pool(tmp_path)
    stage = PoolStage(PoolConfig(path=str(tmp_path / "shards"), max_quarantined=1.0))
    files = external(stage)
    turned = {"shards": ExternalFiles(files["shards"].uri, files["shards"].files[::-1])}
    straight = run_stage(stage, tmp_path / "a", "pool", external=files)
    assert run_stage(stage, tmp_path / "b", "pool", external=turned).manifest.content == straight.manifest.content
