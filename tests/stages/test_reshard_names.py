"""Members keep their names and bytes, also where two samples have the same ones."""

import io
import json
import tarfile
from pathlib import Path

from tests.stages.pool.pools import Pair, archive, jpeg, pair, plain_pool, shard_bytes, uid_of, write_pool
from tests.stages.resharding import pool_of, run, samples_of, subset_of


def test_run_member_names_and_their_order_are_the_original_ones(tmp_path: Path) -> None:
    pairs = plain_pool(tmp_path / "shards", num_shards=1, per_shard=3)
    artifact = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, [str(p.uid) for p in pairs]), shard_size=10)
    with tarfile.open(fileobj=io.BytesIO(artifact.read_bytes("00000000.tar"))) as tar:
        infos = tar.getmembers()
    assert [info.name for info in infos] == [name for item in pairs for name, _ in item.members()]
    assert {(info.mtime, info.uid, info.gid, info.uname) for info in infos} == {(0, 0, 0, "")}


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


def test_run_every_member_keeps_its_name_and_bytes(tmp_path: Path) -> None:
    """Whatever a sample consists of: further members, folders, names beyond 100 bytes, foreign letters, no bytes."""
    uids = [uid_of(n) for n in range(3)]

    def body(number: int) -> bytes:
        return json.dumps({"uid": uids[number]}).encode()

    long = "ordner/" + "größe" * 30
    groups = [
        [("a/1.JPG", jpeg()), ("a/1.seg.png", b"\x89"), ("a/1.json", body(0)), ("a/1.txt", b"one"), ("a/1.cls", b"")],
        [(f"{long}.txt", b"two"), (f"{long}.json", body(1)), (f"{long}.jpg", jpeg(8, 8))],
        [("3.json", body(2)), ("3.jpg", jpeg()), ("3.txt", "drei 漢".encode()), ("3.bin", bytes(range(256)) * 9)],
    ]
    members = [member for group in groups for member in group]
    write_pool(tmp_path / "shards", {"0.tar": archive(members, style=tarfile.PAX_FORMAT)})
    artifact = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, uids), shard_size=10)
    with tarfile.open(fileobj=io.BytesIO(artifact.read_bytes("00000000.tar"))) as tar:
        found = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    assert found == members
    assert artifact.summary["renamed"] == 0


def test_run_members_that_belong_to_no_sample_stay_behind(tmp_path: Path) -> None:
    members = pair(1).members()
    inside = [members[0], ("README", b"x"), (".DS_Store", b"y"), *members[1:]]
    write_pool(tmp_path / "shards", {"0.tar": archive([("LICENSE", b"z"), *inside])})
    artifact = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, [uid_of(1)]), shard_size=10)
    with tarfile.open(fileobj=io.BytesIO(artifact.read_bytes("00000000.tar"))) as tar:
        assert tar.getnames() == [name for name, _ in members]


def test_run_same_keys_in_other_output_shards_need_no_new_names(tmp_path: Path) -> None:
    first, second = pair(1), Pair(pair(1).key, uid_of(2), "another with the same key")
    write_pool(tmp_path / "shards", {"a/0.tar": shard_bytes([first]), "b/0.tar": shard_bytes([second])})
    artifact = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, [uid_of(1), uid_of(2)]), shard_size=1)
    assert artifact.summary["renamed"] == 0
    assert [sample["__key__"].decode() for sample in samples_of(artifact)] == [f"/{first.key}"] * 2


def test_run_many_equal_keys_stay_apart_and_keep_their_bytes(tmp_path: Path) -> None:
    same = [Pair("7", uid_of(n), f"caption {n}", jpeg(16 + n, 16)) for n in range(5)]
    write_pool(tmp_path / "shards", {f"{n}.tar": shard_bytes([item]) for n, item in enumerate(same)})
    artifact = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, [uid_of(n) for n in range(5)]), shard_size=10)
    found = samples_of(artifact)
    assert artifact.summary["renamed"] == 4
    assert len({sample["__key__"] for sample in found}) == 5
    assert [(sample["txt"].decode(), sample["jpg"]) for sample in found] == [(p.caption, p.image) for p in same]
