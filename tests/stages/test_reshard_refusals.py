"""Subsets and shards that do not fit are refused by name."""

import io
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RunError, UserError
from stages.kernels.uid import UID_DTYPE, parse_hex
from stages.reshard_config import ReshardConfig
from tests.stages.pool.pools import Pair, pair, plain_pool, shard_bytes, uid_of, write_pool
from tests.stages.resharding import pool_of, run, subset_of


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


def test_config_refuses_shards_of_no_sample() -> None:
    with pytest.raises(ValueError):
        ReshardConfig(shard_size=0)
