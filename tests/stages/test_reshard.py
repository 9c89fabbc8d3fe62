import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import Artifact, Counts
from pipeline.engine import Engine
from pipeline.errors import RunError, UserError
from pipeline.rates import RatesConfig
from pipeline.schema import ORDER
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
from tests.stages.pool.pools import Pair, archive, jpeg, pair, plain_pool, shard_bytes, uid_of, write_pool


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


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Pair], Artifact]:
    """A pool of three shards, its samples in order, and its index in several order parts."""
    root = tmp_path_factory.mktemp("prepared")
    pairs = plain_pool(root / "shards", num_shards=3, per_shard=7)
    with pytest.MonkeyPatch.context() as patch:
        return root, pairs, pool_of(root, patch)


@settings(deadline=None, max_examples=25)
@given(kept=st.sets(st.integers(0, 20)), shard_size=st.integers(1, 22))
def test_run_any_subset_and_size_gives_each_sample_once_in_balanced_shards(
    prepared: tuple[Path, list[Pair], Artifact],
    tmp_path_factory: pytest.TempPathFactory,
    kept: set[int],
    shard_size: int,
) -> None:
    root, pairs, pool = prepared
    place = tmp_path_factory.mktemp("any")
    subset = subset_of(place, [str(pairs[number].uid) for number in kept])
    stage = ReshardStage(ReshardConfig(shard_size=shard_size), pool_path=str(root / "shards"))
    external = {"shards": listed(root / "shards", ".tar")}
    artifact = run_stage(stage, place / "out", "s", inputs={"pool": pool, "subset": subset}, external=external)
    shards = [read_like_webdataset(artifact.read_bytes(file.path)) for file in artifact.files(suffix=".tar")]
    assert [sample["jpg"] for shard in shards for sample in shard] == [pairs[number].image for number in sorted(kept)]
    sizes = [len(shard) for shard in shards]
    assert len(sizes) == -(-len(kept) // shard_size)
    assert not sizes or (max(sizes) <= shard_size and max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes)[::-1])


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


def test_run_output_is_a_pool_that_reshards_to_itself(tmp_path: Path) -> None:
    pairs = plain_pool(tmp_path / "shards")
    uids = [str(item.uid) for item in pairs[1::3]]
    first = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, uids), shard_size=6)
    again = tmp_path / "again"
    write_pool(again / "shards", {file.path: first.read_bytes(file.path) for file in first.files(suffix=".tar")})
    pool = pool_of(again)
    assert (pool.summary["usable"], pool.summary["quarantined"], pool.summary["shard_faults"]) == (16, 0, {})
    second = run(again, pool, subset_of(again, uids), shard_size=6)
    assert [d for d in digests(second) if d[0] != "meta.json"] == [d for d in digests(first) if d[0] != "meta.json"]


def test_run_pool_that_was_moved_since_it_was_indexed_is_found(tmp_path: Path) -> None:
    pairs = plain_pool(tmp_path / "shards", num_shards=2)
    pool, subset = pool_of(tmp_path), subset_of(tmp_path, [str(item.uid) for item in pairs])
    before = digests(run(tmp_path, pool, subset, shard_size=9))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "shards").rename(tmp_path / "elsewhere/shards")
    stage = ReshardStage(ReshardConfig(shard_size=9), pool_path=str(tmp_path / "elsewhere/shards"))
    external = {"shards": listed(tmp_path / "elsewhere/shards", ".tar")}
    moved = run_stage(stage, tmp_path / "moved", "s", inputs={"pool": pool, "subset": subset}, external=external)
    assert digests(moved) == before


def test_run_pool_of_a_single_tar_is_resharded(tmp_path: Path) -> None:
    write_pool(tmp_path / "shards", {"one.tar": shard_bytes([pair(1), pair(2)])})
    path = tmp_path / "shards/one.tar"
    stage = PoolStage(PoolConfig(path=str(path)))
    pool = run_stage(stage, tmp_path / "pool", "pool", external={"shards": listed(path)})
    reshard_stage = ReshardStage(ReshardConfig(shard_size=1), pool_path=str(path))
    inputs = {"pool": pool, "subset": subset_of(tmp_path, [uid_of(1), uid_of(2)])}
    artifact = run_stage(reshard_stage, tmp_path / "out", "s", inputs=inputs, external={"shards": listed(path)})
    assert [sample["jpg"] for sample in samples_of(artifact)] == [pair(1).image, pair(2).image]


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


@pytest.mark.parametrize("uids", [[uid_of(1), uid_of(1)], [uid_of(5)], [uid_of(1), uid_of(6)]])
def test_run_uid_that_is_twice_there_or_quarantined_is_an_error(tmp_path: Path, uids: list[str]) -> None:
    broken = [Pair("5", uid_of(5), None), Pair("6", uid_of(6), image=b"no picture")]
    write_pool(tmp_path / "shards", {"0.tar": shard_bytes([pair(1), *broken, pair(2)])})
    with pytest.raises(RunError, match="not a part of the pool"):
        run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, uids), shard_size=10)


def test_run_shard_whose_headers_changed_after_indexing_is_an_error(tmp_path: Path) -> None:
    pairs = plain_pool(tmp_path / "shards", num_shards=1)
    pool = pool_of(tmp_path)
    path = tmp_path / "shards/00000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[512:] + data[:512])  # same length, every member elsewhere
    with pytest.raises(RunError, match="not what the pool's index says"):
        run(tmp_path, pool, subset_of(tmp_path, [str(item.uid) for item in pairs]), shard_size=10)


def test_run_leaves_nothing_in_the_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    pairs = plain_pool(tmp_path / "shards", num_shards=1)
    run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, [str(item.uid) for item in pairs]), shard_size=5)
    assert list(temporary.iterdir()) == []


def open_clips_size_reader() -> Any:
    """`get_dataset_size` of open_clip's training, out of its file: importing that needs webdataset and more."""
    import ast
    import importlib.util

    package = importlib.util.find_spec("open_clip_train")
    if package is None or not package.submodule_search_locations:
        pytest.skip("open_clip's training is not installed")
    source = (Path(package.submodule_search_locations[0]) / "data.py").read_text()
    wanted = [node for node in ast.parse(source).body if getattr(node, "name", "") == "get_dataset_size"]
    import os

    names: dict[str, Any] = {"os": os, "json": json, "ast": ast, "expand_urls": lambda shards: (shards, None)}
    exec(compile(ast.Module(wanted, []), "data.py", "exec"), names)
    return names["get_dataset_size"]


def test_run_open_clip_finds_the_number_of_samples(tmp_path: Path) -> None:
    pairs = plain_pool(tmp_path / "shards")
    run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, [str(p.uid) for p in pairs[:31]]), shard_size=8)
    shards = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    read = open_clips_size_reader()
    assert read(shards) == (31, 4)
    assert read(shards[:2]) == (16, 2)


def test_run_datacomp_finds_shards_and_counts_by_the_side_files_alone(tmp_path: Path) -> None:
    """Its training builds names from meta.json; its resharder takes counts from sizes.json, or else the statistics."""
    pairs = plain_pool(tmp_path / "shards")
    run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, [str(p.uid) for p in pairs[:31]]), shard_size=8)
    out = tmp_path / "out"
    meta = json.loads((out / "meta.json").read_text())
    names = [meta["output_shard_format"].format(number) for number in range(meta["output_shard_count"])]
    assert names == sorted(path.name for path in out.glob("*.tar"))
    by_table = json.loads((out / meta["shard_table"]).read_text())
    by_statistics = {
        name: json.loads((out / meta["shard_stats_format"].format(number)).read_text())["successes"]
        for number, name in enumerate(names)
    }
    counted = {name: len(read_like_webdataset((out / name).read_bytes())) for name in names}
    assert by_table == by_statistics == counted
    assert sum(counted.values()) == meta["output_count"] == 31


def test_run_side_files_hold_nothing_of_this_place(tmp_path: Path) -> None:
    pairs = plain_pool(tmp_path / "shards", num_shards=1)
    artifact = run(tmp_path, pool_of(tmp_path), subset_of(tmp_path, [str(p.uid) for p in pairs]), shard_size=5)
    for file in artifact.files(suffix=".json"):
        assert str(tmp_path).encode() not in artifact.read_bytes(file.path)


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=70), st.integers(0, 10**6))
def test_kept_rows_mask_survives_packing(mask: list[bool], first_row: int) -> None:
    rows = KeptRows.of("p", first_row, np.array(mask, np.bool_))
    assert rows.unpacked().tolist() == mask
    assert (rows.num_rows, rows.count, len(rows.mask)) == (len(mask), sum(mask), -(-len(mask) // 8))


def test_deal_pieces_begin_and_end_with_a_kept_row() -> None:
    """Else tasks would read rows that they do not need."""
    mask = np.zeros(100, np.bool_)
    mask[[10, 11, 50, 90]] = True
    outputs = deal([KeptRows.of("p", 1000, mask)], [2, 2])
    assert [(p.first_row, p.num_rows) for shard in outputs for p in shard.pieces] == [(1010, 2), (1050, 41)]


@pytest.mark.parametrize("row_group", [1, 4, 5, 100])
@pytest.mark.parametrize(("first", "number"), [(0, 1), (3, 2), (4, 9), (0, 20), (19, 1)])
def test_read_rows_are_the_stretch_whatever_the_row_groups(
    tmp_path: Path, row_group: int, first: int, number: int
) -> None:
    from pipeline.artifact import ArtifactWriter, parquet_bytes
    from pipeline.storage import Storage

    table = pa.table({name: pa.array(range(20), kind) for name, kind in ORDER.columns.items()})
    writer = ArtifactWriter(str(tmp_path), Storage())
    entry = writer.put_bytes("order/part-00000.parquet", parquet_bytes(table, row_group_rows=row_group), rows=20)
    pool = commit(tmp_path, "pool", StageResult((entry,), {}))
    rows = reshard._read_rows(pool, KeptRows.of(entry.path, first, np.ones(number, np.bool_)))
    assert rows["uid_lo"].to_pylist() == list(range(first, first + number))
