import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.artifact import Artifact
from pipeline.engine import Engine
from pipeline.errors import RunError, UserError
from pipeline.rates import RatesConfig
from pipeline.schema import ORDER, POOL
from pipeline.stage import ExternalFiles
from pipeline.storage import Storage
from stages.formats.tar import read_members
from stages.kernels.buckets import bucket_path
from stages.pool import scan_task
from stages.pool.config import PoolConfig
from stages.pool.stage import PoolStage
from tests.artifacts import listed, run_stage
from tests.stages.pool.pools import (
    Pair,
    archive,
    jpeg,
    pair,
    plain_pool,
    shard_bytes,
    uid_of,
    write_metadata,
    write_pool,
)


def external(stage: PoolStage) -> dict[str, ExternalFiles]:
    return {role: listed(found.uri, found.suffix) for role, found in stage.external().items()}


def index(root: Path, *, out: str = "out", engine: Engine | None = None, seed: int = 0, **config: Any) -> Artifact:
    """Run the stage on `root/shards`, and `root/meta` if it is there."""
    metadata = str(root / "meta") if (root / "meta").exists() else None
    full = {"path": str(root / "shards"), "metadata": metadata, "max_quarantined": 1.0, **config}
    stage = PoolStage(PoolConfig(**full))
    return run_stage(stage, root / out, "pool", external=external(stage), engine=engine, seed=seed)


def rows(artifact: Artifact, folder: str = "index") -> list[dict[str, Any]]:
    found = [row for table in artifact.tables(f"{folder}/") for row in table.to_pylist()]
    return [{"uid": f"{row.pop('uid_hi'):016x}{row.pop('uid_lo'):016x}", **row} for row in found]


def quarantined(artifact: Artifact) -> list[tuple[str, int, str]]:
    paths = artifact.read_table("shards.parquet")["path"].to_pylist()
    table = artifact.read_table("quarantine.parquet")
    return [(paths[row["shard"]], row["offset"], row["reason"]) for row in table.to_pylist()]


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
    monkeypatch.setattr(scan_task, "_MIN_GROUP_BYTES", 60_000)
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
    monkeypatch.setattr(scan_task, "_MIN_GROUP_BYTES", 1)
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
    monkeypatch.setattr(scan_task, "_MIN_GROUP_BYTES", 1)
    alone = index(tmp_path, bucket_rows=10)
    spread = index(tmp_path, bucket_rows=10, out="ray", engine=ray_engine)
    assert spread.manifest.content == alone.manifest.content


ILLS: Mapping[str, Pair] = {
    "no_caption": Pair("5", uid_of(5), None),
    "no_image": Pair("5", uid_of(5), image=None),
    "broken_image": Pair("5", uid_of(5), image=jpeg(256, 256)[:-200]),
    "no_uid": Pair("5", None),
    "bad_uid": Pair("5", "not hexadecimal"),
}


@pytest.mark.parametrize("reason", ILLS)
@pytest.mark.parametrize("check", ["headers", "decode"])
def test_run_broken_sample_is_quarantined_with_place_and_reason(tmp_path: Path, reason: str, check: str) -> None:
    before = shard_bytes([pair(1)])
    write_pool(tmp_path / "shards", {"0.tar": shard_bytes([pair(1), ILLS[reason], pair(2)])})
    artifact = index(tmp_path, check=check)
    offset = 512 * (len(before.rstrip(b"\0")) // 512 + 1)
    assert quarantined(artifact) == [("0.tar", offset, reason)]
    assert {row["uid"] for row in rows(artifact)} == {uid_of(1), uid_of(2)}
    assert artifact.summary["quarantine_reasons"] == {reason: 1}
    counts = artifact.manifest.counts
    assert counts is not None
    assert (counts.seen, counts.out, counts.quarantined) == (3, 2, 1)


def test_run_quarantine_names_member_and_uid(tmp_path: Path) -> None:
    write_pool(tmp_path / "shards", {"0.tar": shard_bytes([pair(1), ILLS["broken_image"]])})
    row = index(tmp_path).read_table("quarantine.parquet").to_pylist()[0]
    assert (row["member"], row["uid"]) == ("5.jpg", uid_of(5))
    assert "truncated" in row["detail"]


def test_run_image_broken_inside_is_found_by_decoding(tmp_path: Path) -> None:
    sink = io.BytesIO()
    Image.open(io.BytesIO(jpeg(256, 256))).save(sink, "PNG")
    broken = bytearray(sink.getvalue())
    broken[len(broken) // 2 : len(broken) // 2 + 50] = bytes(50)  # ends as a PNG should
    write_pool(tmp_path / "shards", {"0.tar": shard_bytes([pair(1), Pair("5", uid_of(5), image=bytes(broken))])})
    assert index(tmp_path, check="headers").summary["quarantined"] == 0
    assert index(tmp_path, check="decode", out="decoded").summary["quarantine_reasons"] == {"broken_image": 1}


def test_run_bad_json_is_quarantined(tmp_path: Path) -> None:
    write_pool(
        tmp_path / "shards",
        {"0.tar": archive([*pair(1).members(), ("5.jpg", jpeg()), ("5.json", b"{"), ("5.txt", b"c")])},
    )
    assert index(tmp_path).summary["quarantine_reasons"] == {"bad_json": 1}


def test_run_duplicate_uid_first_by_place_stays(tmp_path: Path) -> None:
    shards = {
        "0.tar": [pair(1), pair(2)],
        "1.tar": [pair(3), Pair("1000", uid_of(1), "again"), Pair("1001", uid_of(3), "again")],
        "2.tar": [Pair("2000", uid_of(1).upper(), "again"), pair(4)],
    }
    write_pool(tmp_path / "shards", {name: shard_bytes(pairs) for name, pairs in shards.items()})
    artifact = index(tmp_path, bucket_rows=1)
    found = {row["uid"]: (row["shard"], row["key"]) for row in rows(artifact)}
    assert found == {
        uid_of(1): (0, pair(1).key),
        uid_of(2): (0, pair(2).key),
        uid_of(3): (1, pair(3).key),
        uid_of(4): (2, pair(4).key),
    }
    assert [(path, reason) for path, _, reason in quarantined(artifact)] == [
        ("1.tar", "duplicate_uid"),
        ("1.tar", "duplicate_uid"),
        ("2.tar", "duplicate_uid"),
    ]
    assert sorted(row["uid"] for row in rows(artifact, "order")) == sorted(found)
    assert artifact.read_table("shards.parquet")["usable"].to_pylist() == [2, 1, 1]
    assert artifact.summary["normalised"] == {"uid": 1}
    details = artifact.read_table("quarantine.parquet")["detail"].to_pylist()
    assert details == ["shard 0 has it first, at offset 0", "shard 1 has it first, at offset 0", details[0]]


@pytest.mark.parametrize("cut", [100, 1000, 4000, 7000, 10_000])
def test_run_cut_shard_keeps_what_is_before_the_cut(tmp_path: Path, cut: int) -> None:
    whole = shard_bytes([pair(n) for n in range(4)])
    write_pool(tmp_path / "shards", {"0.tar": shard_bytes([pair(9)]), "1.tar": whole[:cut]})
    artifact = index(tmp_path)
    ends = np.cumsum([sum(512 + -(-len(data) // 512) * 512 for _, data in pair(n).members()) for n in range(4)])
    kept = int((ends <= cut).sum())
    assert {row["uid"] for row in rows(artifact)} == {uid_of(n) for n in [9, *range(kept)]}
    assert artifact.summary["quarantine_reasons"] == {"truncated_tar": 1}
    assert artifact.summary["shard_faults"] == {"truncated_tar": 1}
    assert artifact.read_table("shards.parquet")["fault"].to_pylist() == [None, "truncated_tar"]


def test_run_shard_that_ends_between_samples_loses_none_and_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = shard_bytes([pair(0), pair(1)])
    end = sum(512 + -(-len(data) // 512) * 512 for data in (data for n in (0, 1) for _, data in pair(n).members()))
    write_pool(tmp_path / "shards", {"0.tar": whole[:end]})
    artifact = index(tmp_path)
    assert (artifact.summary["usable"], artifact.summary["quarantined"]) == (2, 0)
    assert artifact.summary["shard_faults"] == {"no_end_marker": 1}
    assert "no_end_marker" in capsys.readouterr().err


def test_run_file_that_is_no_tar_is_one_fault(tmp_path: Path) -> None:
    import gzip

    write_pool(
        tmp_path / "shards",
        {"0.tar": shard_bytes([pair(1)]), "1.tar": gzip.compress(shard_bytes([pair(2)])), "2.tar": b""},
    )
    artifact = index(tmp_path)
    assert [(path, reason) for path, _, reason in quarantined(artifact)] == [
        ("1.tar", "not_a_tar"),
        ("2.tar", "truncated_tar"),
    ]
    assert artifact.summary["usable"] == 1


def test_run_too_many_broken_stops_and_names_the_worst(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards", num_shards=3)
    write_pool(tmp_path / "shards", {"bad.tar": shard_bytes([Pair(str(n), uid_of(100 + n), None) for n in range(4)])})
    with pytest.raises(RunError) as raised:
        index(tmp_path, max_quarantined=0.05)
    text = str(raised.value)
    assert "4 of 40 = 10.00%: 4 no_caption" in text
    assert "bad.tar: 4 of 4: 4 no_caption" in text
    assert raised.value.exit_code == 1
    assert index(tmp_path, max_quarantined=0.1, out="lenient").summary["quarantined"] == 4


def test_run_duplicates_count_against_the_limit(tmp_path: Path) -> None:
    write_pool(tmp_path / "shards", {"0.tar": shard_bytes([pair(1), Pair("2", uid_of(1))])})
    with pytest.raises(RunError, match="1 duplicate_uid"):
        index(tmp_path, max_quarantined=0.4)


def test_run_nothing_usable_is_the_users_to_mend(tmp_path: Path) -> None:
    write_pool(tmp_path / "shards", {"0.tar": shard_bytes([Pair("1", None), Pair("2", None)])})
    with pytest.raises(UserError, match="no sample of the pool can be used") as raised:
        index(tmp_path, max_quarantined=0.5)
    assert "2 no_uid" in str(raised.value)


def test_run_pool_without_samples_is_refused(tmp_path: Path) -> None:
    write_pool(tmp_path / "shards", {"0.tar": archive([])})
    with pytest.raises(UserError, match="no samples"):
        index(tmp_path)


def test_external_missing_pool_names_the_command() -> None:
    declared = PoolStage(PoolConfig(path="nowhere", metadata="m")).external()
    assert "gradsieve pool make data/demo" in declared["shards"].missing
    assert (declared["shards"].suffix, declared["metadata"].suffix) == (".tar", ".parquet")


def test_run_joins_metadata_by_uid_in_stored_types(tmp_path: Path) -> None:
    pairs = plain_pool(tmp_path / "shards", num_shards=1)
    uids = [pairs[n].uid for n in range(11)]
    write_metadata(
        tmp_path / "meta",
        "a.parquet",
        [(uid or "").upper() for uid in uids],
        score=pa.array(range(11), pa.float32()),
        url=[f"u{n}" for n in range(11)],
    )
    artifact = index(tmp_path, bucket_rows=4)
    found = {row["uid"]: (row["score"], row["url"]) for row in rows(artifact)}
    assert found == {item.uid: (float(n), f"u{n}") if n < 11 else (None, None) for n, item in enumerate(pairs)}
    assert artifact.summary["metadata_columns"] == {"score": "float", "url": "string"}
    assert artifact.summary["without_metadata"] == 1
    assert artifact.summary["normalised"]["metadata_uid"] > 0


def test_run_metadata_without_a_sample_is_missing(tmp_path: Path) -> None:
    write_pool(tmp_path / "shards", {"0.tar": shard_bytes([pair(1), Pair("5", uid_of(5), None)])})
    write_metadata(tmp_path / "meta", "a.parquet", [uid_of(n) for n in (1, 5, 7, 8)], score=[0.1, 0.5, 0.7, 0.8])
    artifact = index(tmp_path, bucket_rows=1)
    assert {(row["uid"], row["score"]) for row in rows(artifact, "missing")} == {
        (uid_of(5), 0.5),
        (uid_of(7), 0.7),
        (uid_of(8), 0.8),
    }
    assert (artifact.summary["missing"], artifact.summary["missing_quarantined"]) == (2, 1)
    assert artifact.summary["metadata_rows"] == 4


def test_run_metadata_column_named_like_ours_is_renamed(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards", num_shards=1, per_shard=1)
    write_metadata(tmp_path / "meta", "a.parquet", [uid_of(0)], key=["theirs"], width=[999])
    row = rows(index(tmp_path))[0]
    assert (row["key"], row["width"]) == (pair(0).key, 24)
    assert (row["metadata_key"], row["metadata_width"]) == ("theirs", 999)


def test_run_metadata_files_with_other_columns_and_widths_are_joined(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards", num_shards=1, per_shard=2)
    write_metadata(tmp_path / "meta", "a.parquet", [uid_of(0)], size=pa.array([1], pa.int32()), tag=pa.nulls(1))
    write_metadata(tmp_path / "meta", "b.parquet", [uid_of(1)], size=pa.array([2], pa.int64()), tag=["x"], more=[True])
    artifact = index(tmp_path)
    assert artifact.summary["metadata_columns"] == {"size": "int64", "tag": "string", "more": "bool"}
    assert sorted((r["size"], r["tag"], r["more"]) for r in rows(artifact)) == [(1, None, None), (2, "x", True)]


def test_run_metadata_of_clashing_types_is_refused(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards", num_shards=1, per_shard=2)
    write_metadata(tmp_path / "meta", "a.parquet", [uid_of(0)], size=[1])
    write_metadata(tmp_path / "meta", "b.parquet", [uid_of(1)], size=["large"])
    with pytest.raises(UserError, match=r"different types") as raised:
        index(tmp_path)
    assert "b.parquet" in str(raised.value)


def test_run_metadata_with_a_uid_twice_names_both_files(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards", num_shards=1)
    write_metadata(tmp_path / "meta", "a.parquet", [uid_of(0), uid_of(1)])
    write_metadata(tmp_path / "meta", "b.parquet", [uid_of(2), uid_of(1)])
    with pytest.raises(UserError, match=f"uid {uid_of(1)} twice") as raised:
        index(tmp_path)
    assert "a.parquet" in str(raised.value)
    assert "b.parquet" in str(raised.value)


def test_preflight_metadata_without_uid_is_refused_before_any_work(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    plain_pool(tmp_path / "shards", num_shards=1)
    (tmp_path / "meta").mkdir()
    pq.write_table(pa.table({"sha256": ["x"]}), tmp_path / "meta/a.parquet")
    stage = PoolStage(PoolConfig(path=str(tmp_path / "shards"), metadata=str(tmp_path / "meta")))
    with pytest.raises(UserError, match="without a `uid` column"):
        stage.preflight(external(stage), Storage())


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


def test_run_shard_that_changes_after_listing_is_an_error(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards", num_shards=1)
    stage = PoolStage(PoolConfig(path=str(tmp_path / "shards")))
    files = external(stage)
    write_pool(tmp_path / "shards", {"00000000.tar": shard_bytes([pair(1)])})
    with pytest.raises(RunError, match="changed while it was read"):
        run_stage(stage, tmp_path / "out", "pool", external=files)


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


def ill_pool(root: Path) -> list[Pair]:
    """Three shards with duplicates across them, broken samples, and metadata with gaps; its usable samples."""
    by_shard = [[pair(s * 10 + n, shard=s) for n in range(10)] for s in range(3)]
    by_shard[1][4] = Pair("4", uid_of(3), "again")
    by_shard[2][0] = Pair("0", uid_of(3).upper(), "and again")
    by_shard[2][9] = Pair("9", uid_of(29), None)
    write_pool(root / "shards", {f"{s}.tar": shard_bytes(pairs) for s, pairs in enumerate(by_shard)})
    write_metadata(root / "meta", "a.parquet", [uid_of(n) for n in range(0, 40, 2)], score=np.arange(20.0))
    write_metadata(root / "meta", "b.parquet", [uid_of(n) for n in range(1, 30, 2)], score=np.arange(15.0))
    return [
        item
        for s, pairs in enumerate(by_shard)
        for n, item in enumerate(pairs)
        if (s, n) not in ((1, 4), (2, 0), (2, 9))
    ]


@pytest.mark.parametrize("bucket_rows", [1, 4, 14, 27])
def test_run_any_number_of_buckets_holds_the_same_rows(tmp_path: Path, bucket_rows: int) -> None:
    usable = ill_pool(tmp_path)
    one = index(tmp_path, bucket_rows=1000, out="one")
    cut = index(tmp_path, bucket_rows=bucket_rows, out="cut")
    assert one.summary["bucket_bits"] == 0
    assert len(cut.files("index/")) == 1 << cut.summary["bucket_bits"]
    for folder in ("index", "missing"):
        assert rows(cut, folder) == rows(one, folder)
    assert sorted(row["uid"] for row in rows(one)) == sorted(str(item.uid) for item in usable)
    assert rows(cut, "order") == rows(one, "order")
    assert quarantined(cut) == quarantined(one)
    assert {**cut.summary, "bucket_bits": 0} == one.summary


def test_run_counts_reconcile_by_shard_and_over_all(tmp_path: Path) -> None:
    ill_pool(tmp_path)
    artifact = index(tmp_path, bucket_rows=8)
    shards = artifact.read_table("shards.parquet").to_pylist()
    places = quarantined(artifact)
    for shard in shards:
        assert shard["seen"] == shard["usable"] + sum(path == shard["path"] for path, _, _ in places)
    summary = artifact.summary
    assert summary["samples"] == sum(shard["seen"] for shard in shards) == 30
    assert summary["usable"] + summary["quarantined"] == 30
    assert summary["quarantine_reasons"] == {"duplicate_uid": 2, "no_caption": 1}
    there = {row["uid"] for row in rows(artifact)}
    described = {uid_of(n) for n in [*range(0, 40, 2), *range(1, 30, 2)]}
    assert summary["metadata_rows"] == 35
    assert summary["without_metadata"] == len(there - described)
    assert summary["missing"] + summary["missing_quarantined"] == len(described - there)
    assert summary["missing_quarantined"] == 1


@pytest.mark.parametrize(("limit", "passes"), [(0.1, True), (0.0999, False), (0.0, False), (1.0, True)])
def test_run_limit_of_quarantine_is_inclusive(tmp_path: Path, limit: float, passes: bool) -> None:
    ill_pool(tmp_path)  # 3 of 30
    if passes:
        assert index(tmp_path, max_quarantined=limit).summary["quarantined"] == 3
        return
    with pytest.raises(RunError, match="too many broken samples"):
        index(tmp_path, max_quarantined=limit)


def test_run_pool_without_ills_passes_the_strictest_limit(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards", num_shards=1)
    assert index(tmp_path, max_quarantined=0.0).summary["usable"] == 12


@pytest.mark.parametrize("after", [1, 2])
def test_run_killed_between_shards_reads_only_the_others_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    ill_pool(tmp_path)
    monkeypatch.setattr(scan_task, "_MIN_GROUP_BYTES", 1)
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
