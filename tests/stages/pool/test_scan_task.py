"""Groups of shards, and what a group leaves behind."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reuse import Entries
from pipeline.schema import ORDER
from pipeline.storage import Storage
from stages.kernels.grouping import planned_shard_groups
from stages.pool import scan_task
from stages.pool.quarantine import QUARANTINE
from stages.pool.runs import read_bucket
from stages.pool.scan import POOL_SCHEMA, ShardRef
from stages.pool.scan_task import SHARDS, GroupScan, group_shards, scan_group
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
    ("shards", "size", "groups"), [(1, 10, 1), (3, 16 << 20, 3), (6, 8 << 20, 3), (8000, 300 << 20, 931)]
)
def test_groups_of_equal_shards_are_as_many_as_planned(shards: int, size: int, groups: int) -> None:
    assert len(group_shards(refs([size] * shards))) == groups
    assert abs(planned_shard_groups(shards * size, shards) - groups) <= groups * 0.03 + 1


def scanned(root: Path, *shards: list[Pair], store: str = "store", **changes: Any) -> GroupScan:
    """Scan a group of shards, each with its samples."""
    listed = []
    for number, pairs in enumerate(shards):
        data = shard_bytes(pairs)
        (root / f"{number}.tar").write_bytes(data)
        version = changes.get("version", "v")
        listed.append(ShardRef(4 + number, f"{number}.tar", str(root / f"{number}.tar"), len(data), version))
    entries = Entries.of(str(root / store), SHARDS, Storage())
    return scan_group(tuple(listed), storage=Storage(), entries=entries, check=changes.get("check", "decode"))


PAIRS = [pair(1), Pair("5", uid_of(5), None), pair(2), pair(3)]
MORE = [pair(4), Pair("6", uid_of(6), None)]


def contents(found: GroupScan) -> list[bytes]:
    return [Path(uri).read_bytes() for uri in (found.run.uri, found.order, found.broken)]


def test_scan_group_leaves_samples_order_and_broken_ones(tmp_path: Path) -> None:
    found = scanned(tmp_path, PAIRS)
    tables = {kind: Storage().read_table(uri) for kind, uri in (("order", found.order), ("broken", found.broken))}
    samples = read_bucket(Storage(), [found.run], 0, 0, POOL_SCHEMA)
    uids = [(row["uid_hi"], row["uid_lo"]) for row in samples.to_pylist()]
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


@pytest.mark.parametrize("changes", [{"check": "headers"}, {"version": "w"}])
def test_scan_group_with_anything_changed_is_done_anew(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert scanned(tmp_path, PAIRS).entry != scanned(tmp_path, PAIRS, **changes).entry


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_scan_group_that_grew_reads_its_new_shards_and_is_as_if_all_were_new(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("group")
    numbers = data.draw(st.lists(st.lists(st.integers(1, 9), unique=True, max_size=4), min_size=1, max_size=4))
    shards = [[pair(n, shard=s) if n % 4 else Pair(str(n), uid_of(n), None) for n in numbers[s]] for s in
              range(len(numbers))]  # fmt: skip
    known = data.draw(st.integers(0, len(shards)))
    if known:
        scanned(root, *shards[:known])
    read: list[int] = []
    whole = scan_task.scan_shard
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_task, "scan_shard", lambda *given: (read.append(given[1].number), whole(*given))[1])
        grown = scanned(root, *shards)
    assert read == [4 + number for number in range(known, len(shards))]
    scratch = scanned(root, *shards, store="scratch")
    assert contents(grown) == contents(scratch)
    assert (grown.shards, grown.normalised, grown.digest) == (scratch.shards, scratch.normalised, scratch.digest)


def test_digest_of_a_group_tells_its_shards_bytes(tmp_path: Path) -> None:
    digests = {scanned(tmp_path, *shards).digest for shards in ([PAIRS], [MORE], [PAIRS, MORE], [MORE, PAIRS])}
    assert len(digests) == 4
    assert scanned(tmp_path, PAIRS, version="w").digest in digests, "not when they were written"


@pytest.mark.parametrize("kind", ["samples", "order", "broken", "manifest"])
def test_scan_group_interrupted_before_its_manifest_is_done_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The manifest goes last, so that nothing half done is taken for done."""
    (tmp_path / "a").mkdir()
    undisturbed = scanned(tmp_path / "a", PAIRS)
    whole = Storage.put_once

    def fail_at(self: Storage, uri: str, data: bytes) -> None:
        if f"/{kind}" in uri:
            raise KeyboardInterrupt
        whole(self, uri, data)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put_once", fail_at)
        with pytest.raises(KeyboardInterrupt):
            scanned(tmp_path, PAIRS)
    assert not list(tmp_path.glob("store/**/manifest.json"))
    again = scanned(tmp_path, PAIRS)
    assert again.shards == undisturbed.shards
    assert contents(again) == contents(undisturbed)


def test_scan_groups_entry_tells_no_place(tmp_path: Path) -> None:
    found = scanned(tmp_path, PAIRS)
    body = json.loads((tmp_path / "store" / found.entry / "manifest.json").read_text())
    assert body["summary"]["shards"][0]["reasons"] == {"no_caption": 1}
    assert str(tmp_path) not in json.dumps(body)
