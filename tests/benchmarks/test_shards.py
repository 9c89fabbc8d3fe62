"""Pools of real tars."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from benchmarks.scale.draws import rows
from benchmarks.scale.shards import LARGE_PICTURES, SMALL_PICTURES, Pictures, picture_bank, put_shards
from benchmarks.scale.uids import Uids
from stages.kernels.uid import to_hex
from stages.pool.config import PoolConfig
from stages.pool.stage import PoolStage
from tests.artifacts import listed, run_stage

UIDS = Uids(25, seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    put_shards(root, UIDS, shard_size=10, pictures=Pictures(side=64))
    return root


def test_tars_hold_every_sample_with_its_three_members(folder):
    uids = []
    for number, size in enumerate((10, 10, 5)):
        with tarfile.open(folder / f"{number:08d}.tar") as tar:
            names = tar.getnames()
            assert len(names) == 3 * size
            assert names != sorted(names)
            for jpg, text, txt in zip(names[::3], names[1::3], names[2::3], strict=True):
                assert (jpg[12:], text[12:], txt[12:]) == (".jpg", ".json", ".txt")
                fields = json.loads(tar.extractfile(text).read())
                assert fields["caption"] == tar.extractfile(txt).read().decode()
                assert Image.open(io.BytesIO(tar.extractfile(jpg).read())).size[0] == 64
                uids.append(fields["uid"])
    rank = rows(0, 25)
    assert sorted(uids) == to_hex(UIDS.hi(rank), UIDS.lo(rank)).to_pylist()
    assert uids != sorted(uids)


def test_pool_stage_finds_nothing_amiss(folder, tmp_path):
    stage = PoolStage(PoolConfig(path=str(folder)))
    pool = run_stage(stage, tmp_path, "pool", external={"shards": listed(folder, ".tar")})
    assert (pool.summary["samples"], pool.summary["usable"], pool.summary["quarantined"]) == (25, 25, 0)


def test_tars_are_the_same_bytes_each_time(folder, tmp_path):
    put_shards(tmp_path, UIDS, shard_size=10, pictures=Pictures(side=64))
    for path in sorted(folder.glob("*.tar")):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("pictures", "least", "most"), [(SMALL_PICTURES, 24_000, 36_000), (LARGE_PICTURES, 36_000, 54_000)]
)
def test_pictures_have_the_size_that_is_said_of_them(pictures, least, most):
    bank = picture_bank(pictures, seed=3)
    assert least < np.mean([len(data) for data in bank]) < most
    sizes = [Image.open(io.BytesIO(data)).size for data in bank]
    assert {width for width, _ in sizes} == {pictures.side}
    assert all(0.6 * width - 1 <= height <= width for width, height in sizes)
    assert picture_bank(pictures, seed=3) == bank
