"""Metadata joined by uid, and what of it is refused."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.pool import runs
from stages.pool.config import PoolConfig
from stages.pool.stage import PoolStage
from tests.stages.pool.indexing import external, index, rows
from tests.stages.pool.pools import (
    Pair,
    pair,
    plain_pool,
    shard_bytes,
    uid_of,
    write_metadata,
    write_pool,
)


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


def test_run_long_metadata_is_cut_at_more_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = plain_pool(tmp_path / "shards", num_shards=1)
    write_metadata(tmp_path / "meta", "a.parquet", [item.uid for item in pairs], url=[item.uid for item in pairs])
    stored = (tmp_path / "meta" / "a.parquet").stat().st_size
    whole = index(tmp_path, out="whole")
    monkeypatch.setattr(runs, "_BUCKET_BYTES", -(-stored // 4))
    cut = index(tmp_path, out="cut")
    assert (whole.summary["bucket_bits"], cut.summary["bucket_bits"]) == (0, 2)
    assert rows(cut) == rows(whole)


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
