"""Which rows go to which shard."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import Artifact
from pipeline.schema import ORDER
from pipeline.stage import StageResult
from stages import reshard
from stages.reshard import KeptRows, ReshardStage, balanced_sizes, deal
from stages.reshard_config import ReshardConfig
from tests.artifacts import commit, listed, run_stage
from tests.stages.pool.pools import Pair, plain_pool
from tests.stages.resharding import pool_of, read_like_webdataset, subset_of


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Pair], Artifact]:
    """A pool of three shards, its samples in order, and its index in several order parts."""
    root = tmp_path_factory.mktemp("prepared")
    pairs = plain_pool(root / "shards", num_shards=3, per_shard=7)
    with pytest.MonkeyPatch.context() as patch:
        return root, pairs, pool_of(root, patch)


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
