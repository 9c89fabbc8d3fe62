"""A pool that grows: only what is new is read, and the result is that of a run from scratch."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifact import Artifact
from tests.counted_store import counted
from tests.stages.pool.indexing import index, rows
from tests.stages.pool.pools import Pair, pair, shard_bytes, uid_of, write_metadata, write_pool

NIGHTS = 3


def grow(root: Path, night: int) -> None:
    """Three shards more, and a file of metadata: with a sample that the first night has, and a broken one."""
    shards = {}
    for number in range(3):
        pairs = [pair(night * 100 + number * 10 + n, shard=number) for n in range(8)]
        pairs.append(Pair("again", uid_of(3), "a uid of the first night"))
        pairs.append(Pair("broken", uid_of(10_000 + night * 10 + number), None))
        shards[f"night-{night}/{number:05d}.tar"] = shard_bytes(pairs)
    write_pool(root / "shards", shards)
    uids = [uid_of(night * 100 + n) for n in range(0, 25, 2)]
    write_metadata(root / "meta", f"{night}.parquet", uids, score=np.arange(len(uids)) / 7 + night)


@pytest.mark.parametrize("group_bytes", [1, 30_000, 16 << 20], ids=["a shard", "some shards", "all shards"])
def test_pool_that_grows_twice_opens_new_shards_alone_and_has_the_bytes_of_one_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_bytes: int
) -> None:
    monkeypatch.setattr("stages.kernels.grouping._LEAST_BYTES", group_bytes)
    for night in range(NIGHTS):
        grow(tmp_path, night)
        with counted(monkeypatch) as store:
            grown = index(tmp_path, out=f"nightly-{night}", store="store", bucket_rows=20)
        assert store.opened(tmp_path / "shards") == {f"night-{night}/{n:05d}.tar" for n in range(3)}
        scratch = index(tmp_path, out=f"scratch-{night}", bucket_rows=20)
        assert grown.manifest.content == scratch.manifest.content
        assert [file.inputs for file in grown.files("order/")] == [file.inputs for file in scratch.files("order/")]
        assert grown.summary["quarantine_reasons"] == {"duplicate_uid": 3 * night + 3, "no_caption": 3 * night + 3}


def test_rows_of_metadata_that_grows_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files that are known only the columns are looked at."""
    grow(tmp_path, 0)
    index(tmp_path, store="store")
    grow(tmp_path, 1)
    with counted(monkeypatch) as store:
        index(tmp_path, out="grown", store="store")
    asked = {name: store.reads[str(tmp_path / "meta" / name)] for name in ("0.parquet", "1.parquet")}
    assert asked["0.parquet"] < asked["1.parquet"]


def test_bucket_bits_may_change_while_what_was_scanned_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How runs are cut depends on their own rows, so that a pool that doubled is not read again."""
    grow(tmp_path, 0)
    few = index(tmp_path, store="store", bucket_rows=200)
    with counted(monkeypatch) as store:
        many = index(tmp_path, out="more", store="store", bucket_rows=3)
    assert few.summary["bucket_bits"] < many.summary["bucket_bits"]
    assert store.opened(tmp_path / "shards") == set()
    assert many.manifest.content == index(tmp_path, out="scratch", bucket_rows=3).manifest.content


def test_shard_put_in_the_middle_or_changed_gives_the_bytes_of_a_run_from_scratch(tmp_path: Path) -> None:
    grow(tmp_path, 0)
    grow(tmp_path, 1)
    index(tmp_path, store="store")
    write_pool(tmp_path / "shards", {"night-0/zzz.tar": shard_bytes([pair(500), pair(501)])})
    write_pool(tmp_path / "shards", {"night-1/00000.tar": shard_bytes([pair(600), pair(601)])})
    grown = index(tmp_path, out="grown", store="store")
    assert grown.manifest.content == index(tmp_path, out="scratch").manifest.content


def test_shards_that_left_the_pool_are_not_in_the_result(tmp_path: Path) -> None:
    grow(tmp_path, 0)
    grow(tmp_path, 1)
    index(tmp_path, store="store")
    (tmp_path / "shards/night-0/00000.tar").unlink()
    shrunk = index(tmp_path, out="shrunk", store="store")
    assert shrunk.manifest.content == index(tmp_path, out="scratch").manifest.content
    assert _shards(shrunk) == Counter({"night-0/00001.tar": 9, "night-0/00002.tar": 8} | _night_1())


def _shards(artifact: Artifact) -> Counter[str]:
    paths = artifact.read_table("shards.parquet")["path"].to_pylist()
    return Counter(paths[row["shard"]] for row in rows(artifact))


def _night_1() -> dict[str, int]:
    return {f"night-1/{number:05d}.tar": 8 for number in range(3)}


def test_manifest_names_the_entries_that_were_used(tmp_path: Path) -> None:
    grow(tmp_path, 0)
    artifact = index(tmp_path, store="store")
    kinds = sorted(name.rpartition("/")[0] for name in artifact.manifest.entries)
    assert kinds == ["entries/pool/metadata", "entries/pool/shards"]
    assert all((tmp_path / "store" / name / "manifest.json").exists() for name in artifact.manifest.entries)
