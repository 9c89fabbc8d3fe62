from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.errors import RunError
from pipeline.storage import Storage
from stages.formats.uid_set import UidSet
from stages.train import sample_index
from stages.train.sample_index import SampleIndex
from tests.stages.train.tiny_pool import make_pool, uid_of

COUNTS = [3, 0, 9, 4, 1, 6]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_pool(tmp_path_factory.mktemp("pool"), COUNTS, parts=3, group_rows=4)[0]


def whole_order(pool: Artifact) -> pa.Table:
    return pa.concat_tables(pool.tables("order/"))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, len(COUNTS) - 1), max_size=12))
def test_rows_of_shards_in_any_order_are_those_of_the_order_table(pool: Artifact, asked: list[int]) -> None:
    index, whole = SampleIndex(pool), whole_order(pool)
    for shard in asked:
        expected = whole.filter(pa.array(whole["shard"].to_numpy() == shard))
        rows = index.rows(shard)
        for name, values in rows._asdict().items():
            assert values.tolist() == expected[name].to_pylist()
    assert index.counts.tolist() == COUNTS
    assert index.paths[2] == "00000002.tar"


@pytest.mark.parametrize("cached", [1, 64])
def test_small_caches_change_nothing(pool: Artifact, monkeypatch: pytest.MonkeyPatch, cached: int) -> None:
    monkeypatch.setattr(sample_index, "_CACHED_SHARDS", cached)
    monkeypatch.setattr(sample_index, "_CACHED_GROUPS", 1)
    index = SampleIndex(pool)
    walked = [index.rows(shard).uid_lo.tolist() for _ in range(2) for shard in range(len(COUNTS))]
    ends = np.cumsum(COUNTS)
    assert walked == [list(range(end - count, end)) for end, count in zip(ends, COUNTS, strict=True)] * 2
    assert len(index._shards) == min(cached, len(COUNTS))


@settings(deadline=None, max_examples=30)
@given(st.sets(st.integers(0, 30)))
def test_restriction_keeps_just_the_set_in_its_order(pool: Artifact, chosen: set[int]) -> None:
    hi, lo = (np.array([uid_of(n)[half] for n in chosen], np.uint64) for half in (0, 1))
    index = SampleIndex(pool, UidSet.of(hi, lo))
    kept = [index.rows(shard).uid_lo.tolist() for shard in range(len(COUNTS))]
    assert [number for shard in kept for number in shard] == sorted(chosen & set(range(sum(COUNTS))))
    assert index.counts.tolist() == [len(shard) for shard in kept]


def test_order_table_of_other_shards_is_an_error(tmp_path: Path) -> None:
    pool, _ = make_pool(tmp_path / "a", [4, 4], parts=1)
    path = "order/part-00000.parquet"
    table = pool.read_table(path)
    wrong = table.set_column(2, "shard", pa.array([0, 0, 0, 1, 1, 1, 1, 1], pa.uint32()))
    entry = ArtifactWriter(pool.root, Storage(), overwrite=True).put_table(path, wrong)
    files = tuple(entry if file.path == path else file for file in pool.manifest.files)
    with pytest.raises(RunError, match="not by shard"):
        SampleIndex(replace(pool, manifest=replace(pool.manifest, files=files))).rows(0)
