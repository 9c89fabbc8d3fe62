import json
import tarfile

import pyarrow.parquet as pq
import pytest


def _members(path):
    """Names and bytes in a tar, until it ends or breaks off."""
    found = []
    with tarfile.open(path) as tar:
        while (member := tar.next()) is not None:
            found.append((member, tar.extractfile(member).read()))
    return found


@pytest.fixture(scope="module")
def whole(demo):
    """A shard that is not truncated, and its number."""
    truth = pq.read_table(demo.truth).to_pylist()
    broken = {int(row["key"][:8]) for row in truth if "truncated_tar" in row["ills"]}
    return next(shard for shard in range(8) if shard not in broken)


def test_members_follow_each_other_by_key_in_the_order_jpg_json_txt(demo, whole):
    groups = {}
    for member, _ in _members(demo.shards / f"{whole:08d}.tar"):
        key, ending = member.name.split(".")
        assert key not in groups or list(groups)[-1] == key
        groups.setdefault(key, []).append(ending)
        assert (member.mode, member.mtime) == (0o444, 0)
    assert len(groups) == 32
    assert {tuple(endings) for endings in groups.values()} <= {("jpg", "json", "txt"), ("jpg", "json")}
    assert all(len(key) == 12 and int(key) // 10**4 == whole for key in groups)
    assert list(groups) != sorted(groups)


def test_json_has_the_fields_of_img2dataset_in_their_order(demo, whole):
    members = {member.name: data for member, data in _members(demo.shards / f"{whole:08d}.tar")}
    name = next(name for name in members if name.endswith(".txt"))
    facts = json.loads(members[name.replace(".txt", ".json")])
    assert list(facts) == [
        "uid", "face_bboxes", "caption", "url", "key", "status", "error_message", "width", "height", "original_width",
        "original_height", "exif", "sha256",
    ]  # fmt: skip
    assert facts["caption"] == members[name].decode()
    assert facts["key"] + ".txt" == name
    assert len(facts["uid"]) == 32


def test_statistics_and_table_count_attempts(demo, whole):
    table = pq.read_table(demo.shards / f"{whole:08d}.parquet")
    statistics = json.loads((demo.shards / f"{whole:08d}_stats.json").read_text())
    successes = table["status"].to_pylist().count("success")
    assert (statistics["count"], statistics["successes"]) == (table.num_rows, successes)
    assert successes == 32
    assert statistics["failed_to_download"] == table.num_rows - successes
    keys = table["key"].to_pylist()
    assert keys == [f"{whole:08d}{row:04d}" for row in range(table.num_rows)]


def test_one_tar_breaks_off_within_a_picture(demo):
    broken = []
    for path in sorted(demo.shards.glob("*.tar")):
        try:
            _members(path)
        except tarfile.ReadError:
            broken.append(path)
    assert len(broken) == 1
    statistics = json.loads((demo.shards / broken[0].name.replace(".tar", "_stats.json")).read_text())
    assert statistics["successes"] == 32
