"""Groups of shards, and what a group leaves behind."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import ArtifactWriter
from pipeline.schema import ORDER
from pipeline.storage import Storage
from stages.kernels.grouping import planned_shard_groups
from stages.pool import scan_task
from stages.pool.quarantine import QUARANTINE
from stages.pool.runs import read_bucket
from stages.pool.scan import POOL_SCHEMA, ShardRef
from stages.pool.scan_task import GroupScan, group_shards, scan_group
from tests.stages.pool.pools import Pair, pair, shard_bytes, uid_of


def refs(sizes: list[int]) -> list[ShardRef]:
    return [ShardRef(number, f"{number}.tar", f"/p/{number}.tar", size, "v") for number, size in enumerate(sizes)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 1 << 32), max_size=200))
def test_groups_hold_each_shard_once_in_order(sizes: list[int]) -> None:
    shards = refs(sizes)
    groups = group_shards(shards)
    assert [shard for group in groups for shard in group] == shards
    assert all(groups)
    assert len(groups) <= 2049
    assert group_shards(shards) == groups


@pytest.mark.parametrize(
    ("shards", "size", "groups"), [(1, 10, 1), (3, 16 << 20, 3), (6, 8 << 20, 3), (8000, 300 << 20, 1143)]
)
def test_groups_of_equal_shards_are_as_many_as_planned(shards: int, size: int, groups: int) -> None:
    assert len(group_shards(refs([size] * shards))) == groups
    assert abs(planned_shard_groups(shards * size, shards) - groups) <= groups * 0.03 + 1


def scanned(root: Path, pairs: list[Pair], **changes: Any) -> GroupScan:
    data = shard_bytes(pairs)
    (root / "0.tar").write_bytes(data)
    shard = ShardRef(4, "0.tar", str(root / "0.tar"), len(data), changes.pop("version", "v"))
    options = {"check": "decode", "bits": 1, **changes}
    return scan_group((shard,), storage=Storage(), writer=ArtifactWriter(str(root / "out"), Storage()), **options)


PAIRS = [pair(1), Pair("5", uid_of(5), None), pair(2), pair(3)]


def test_scan_group_leaves_samples_order_and_broken_ones(tmp_path: Path) -> None:
    found = scanned(tmp_path, PAIRS)
    tables = {kind: Storage().read_table(str(tmp_path / "out" / found.path(kind))) for kind in ("order", "broken")}
    run = str(tmp_path / "out" / found.run)
    tables["samples"] = read_bucket(Storage(), [run], 0, 0, POOL_SCHEMA, run_bits=1)
    uids = [(row["uid_hi"], row["uid_lo"]) for row in tables["samples"].to_pylist()]
    assert uids == sorted(uids)
    assert tables["order"].column_names == list(ORDER.columns)
    assert tables["order"]["offset"].to_pylist() == sorted(tables["order"]["offset"].to_pylist())
    assert tables["broken"].schema.equals(QUARANTINE)
    assert tables["broken"]["uid"].to_pylist() == [uid_of(5)]
    (facts,) = found.shards
    assert (facts.shard, facts.seen, facts.usable, facts.reasons) == (4, 4, 3, {"no_caption": 1})


def test_scan_group_again_is_the_same_result_without_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scanned(tmp_path, PAIRS)
    monkeypatch.setattr(scan_task, "scan_shard", lambda *_: pytest.fail("read again"))
    assert scanned(tmp_path, PAIRS) == first


@pytest.mark.parametrize("changes", [{"check": "headers"}, {"bits": 2}, {"version": "w"}])
def test_scan_group_with_anything_changed_is_done_anew(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert scanned(tmp_path, PAIRS).stem != scanned(tmp_path, PAIRS, **changes).stem


@pytest.mark.parametrize("kind", ["samples", "order", "broken"])
def test_scan_group_interrupted_before_its_record_is_done_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Its own file goes last, so that nothing half done is taken for done."""
    (tmp_path / "a").mkdir()
    undisturbed = scanned(tmp_path / "a", PAIRS)
    whole = ArtifactWriter.put_bytes

    def fail_at(self: ArtifactWriter, path: str, *args: Any, **options: Any) -> Any:
        if kind in path:
            raise KeyboardInterrupt
        return whole(self, path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactWriter, "put_bytes", fail_at)
        with pytest.raises(KeyboardInterrupt):
            scanned(tmp_path, PAIRS)
    assert not list((tmp_path / "out/work").glob("*.json"))
    again = scanned(tmp_path, PAIRS)
    assert again == undisturbed
    for path in (tmp_path / "out/work").iterdir():
        assert path.read_bytes() == (tmp_path / "a/out/work" / path.name).read_bytes()


def test_scan_groups_record_is_plain_json(tmp_path: Path) -> None:
    found = scanned(tmp_path, PAIRS)
    body = json.loads((tmp_path / "out" / f"{found.stem}.json").read_text())
    assert body["shards"][0]["reasons"] == {"no_caption": 1}
    assert str(tmp_path) not in json.dumps(body)
