"""The files beside the shards, as open_clip and DataComp read them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stages.pool.pools import plain_pool
from tests.stages.resharding import pool_of, read_like_webdataset, run, subset_of


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
