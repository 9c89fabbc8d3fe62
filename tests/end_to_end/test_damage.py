"""A byte that changed in the store, a shard that cannot be read: named, never passed over."""

import shutil
from pathlib import Path

import pytest

from tests.end_to_end.runs import gradsieve, run_tiny

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A place with the pool and a copy of the finished run in `runs/tiny`."""
    (tmp_path / "pool").symlink_to(finished.parents[1] / "pool")
    shutil.copytree(finished, tmp_path / "runs/tiny")
    return tmp_path


@pytest.mark.parametrize(
    ("part", "override"),
    [
        ("votes/*/bucket-00000.parquet", "aggregate.steps=999"),
        ("decisions/*/bucket-00001.parquet", "select.rule.top.fraction=0.2"),
    ],
)
def test_part_with_a_flipped_byte_is_named_by_whoever_reads_it(copy: Path, part: str, override: str) -> None:
    (path,) = (copy / "runs/tiny/store").glob(part)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x55
    path.write_bytes(data)
    result = run_tiny(copy, "cluster.executor=in_process", override)
    assert result.returncode == 1
    assert path.name in result.stderr
    assert "damaged" in result.stderr
    assert "Traceback" not in result.stderr


def test_deleted_shard_is_made_again_and_the_run_is_whole(copy: Path) -> None:
    gone = copy / "runs/tiny/shards/00000001.tar"
    content = gone.read_bytes()
    gone.unlink()
    result = run_tiny(copy, "cluster.executor=in_process")
    assert result.returncode == 0, result.stderr
    assert "00000001.tar is gone; it is made again" in result.stderr
    assert gone.read_bytes() == content
    assert gradsieve("verify", "runs/tiny", cwd=copy).returncode == 0


@pytest.mark.parametrize("junk", [b"", b"\x1f\x8b" + b"gzip" * 5000, b"junk" * 5000], ids=["empty", "gzip", "junk"])
def test_shard_that_cannot_be_read_counts_by_its_bytes_and_is_named(
    finished: Path, tmp_path: Path, junk: bytes
) -> None:
    shutil.copytree(finished.parents[1] / "pool", tmp_path / "pool")
    shard = tmp_path / "pool/shards/00000003.tar"
    shard.write_bytes(junk * max(1, shard.stat().st_size // max(len(junk), 1)))
    result = run_tiny(tmp_path, "cluster.executor=in_process", "pool.max_quarantined=0.05", "--until", "pool")
    assert result.returncode == 2
    assert "too many shards" in result.stderr
    assert "00000003.tar" in result.stderr
    assert "Traceback" not in result.stderr
