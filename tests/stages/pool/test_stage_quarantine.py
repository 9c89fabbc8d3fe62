"""Broken samples, duplicates and shards: quarantined with their place, up to the limit."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from tests.stages.pool.indexing import index, quarantined, rows
from tests.stages.pool.pools import (
    Pair,
    archive,
    ill_pool,
    jpeg,
    pair,
    plain_pool,
    shard_bytes,
    uid_of,
    write_pool,
)

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
    with pytest.raises(UserError) as raised:
        index(tmp_path, max_quarantined=0.05)
    text = str(raised.value)
    assert "4 of 40 = 10.00%: 4 no_caption" in text
    assert "bad.tar: 4 of 4: 4 no_caption" in text
    assert raised.value.exit_code == 2
    assert index(tmp_path, max_quarantined=0.1, out="lenient").summary["quarantined"] == 4


def test_run_duplicates_count_against_the_limit(tmp_path: Path) -> None:
    write_pool(tmp_path / "shards", {"0.tar": shard_bytes([pair(1), Pair("2", uid_of(1))])})
    with pytest.raises(UserError, match="1 duplicate_uid"):
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
    with pytest.raises(UserError, match="too many broken samples"):
        index(tmp_path, max_quarantined=limit)


def test_run_pool_without_ills_passes_the_strictest_limit(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards", num_shards=1)
    assert index(tmp_path, max_quarantined=0.0).summary["usable"] == 12
