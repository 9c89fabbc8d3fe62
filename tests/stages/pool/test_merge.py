"""Runs are merged where there are many, and the pool is the same."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifact import Artifact
from stages.kernels.grouping import planned_shard_groups, shard_group_bytes
from stages.pool import merge, stage
from stages.pool.config import PoolConfig
from stages.pool.merge import MergeItem, planned_merges
from stages.pool.runs import Run
from stages.pool.stage import PoolStage
from tests.artifacts import listed, run_stage
from tests.stages.pool.pools import plain_pool


def pool_of(root: Path, shards: Path) -> Artifact:
    stage = PoolStage(PoolConfig(path=str(shards), bucket_rows=3))
    return run_stage(stage, root, "pool", external={"shards": listed(shards, ".tar")})


def test_pool_whose_runs_were_merged_has_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_pool(tmp_path / "shards", num_shards=5)
    monkeypatch.setattr(stage, "group_shards", lambda shards: [(shard,) for shard in shards])
    plain = pool_of(tmp_path / "plain", tmp_path / "shards")
    monkeypatch.setitem(merge.merged.__kwdefaults__, "most", 2)
    merged = pool_of(tmp_path / "merged", tmp_path / "shards")
    assert len(list((tmp_path / "merged/work").glob("merged-*.run"))) == 2, "of five runs three and two"
    assert not list((tmp_path / "plain/work").glob("merged-*"))
    assert merged.manifest.content == plain.manifest.content
    again = pool_of(tmp_path / "merged", tmp_path / "shards")
    assert again.manifest.content == plain.manifest.content


@given(st.integers(1, 100_000), st.integers(1, 3000))
def test_merged_runs_are_never_more_than_wanted(num_runs: int, most: int) -> None:
    assert planned_merges(num_runs, most) <= max(most, 1)
    assert (planned_merges(num_runs, most) == num_runs) == (num_runs <= most)


def test_merged_run_is_named_by_what_it_is_made_of() -> None:
    a, b = Run("a", 1), Run("b", 1)
    assert MergeItem((a, b)).path != MergeItem((b, a)).path


@pytest.mark.parametrize("scale", [450e9, 4.5e12, 45e12, 450e12])
def test_task_over_shards_is_bounded_in_pools_of_any_size(scale: float) -> None:
    assert shard_group_bytes(int(scale)) <= 8 << 30
    assert planned_shard_groups(int(scale), int(scale / 350e6)) <= 60_000
