"""Metadata like DataComp's."""

import polars as pl
import pytest

from benchmarks.scale.draws import rows
from benchmarks.scale.metadata import captions, metadata_columns, put_datacomp_files
from benchmarks.scale.tables import put_pool
from benchmarks.scale.uids import Uids
from pipeline.storage import Storage
from stages.formats.datacomp import read_metadata
from tests.stages.uid_tables import read_all

UIDS = Uids(3000, seed=2)
NAMES = ["text", "original_width", "original_height", "clip_b32_similarity_score", "clip_l14_similarity_score"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return put_datacomp_files(tmp_path_factory.mktemp("metadata"), UIDS, 3)


def test_files_are_named_and_typed_as_datacomp_has_them(paths):
    assert all(len(path.stem) == 32 for path in paths)
    schema = pl.read_parquet_schema(paths[0])
    assert list(schema) == ["uid", *NAMES]
    assert schema["clip_l14_similarity_score"] == pl.Float64


def test_files_hold_the_rows_of_the_index_in_no_order(paths, tmp_path):
    pool = put_pool(tmp_path, UIDS, 2, lambda rank: metadata_columns(UIDS, rank))
    index = pl.from_arrow(read_all(pool, "index/bucket-")).select("uid_hi", "uid_lo", *NAMES)
    found = pl.concat([pl.from_arrow(read_metadata(Storage(), str(path)).table) for path in paths])
    assert not found["uid_hi"].is_sorted()
    assert found.sort("uid_hi").equals(index)
    assert set(pool.summary["metadata_columns"]) == set(NAMES)


def test_files_share_the_rows_evenly(paths):
    assert [pl.read_parquet(path).height for path in paths] == [1000] * 3


def test_values_lie_on_both_sides_of_every_bound_of_the_basic_filter(paths):
    frame = pl.concat([pl.read_parquet(path) for path in paths])
    words = frame["text"].str.split(" ").list.len()
    aspect = frame.select(
        pl.max_horizontal("original_width", "original_height") / pl.min_horizontal("original_width", "original_height")
    ).to_series()
    shorter = frame.select(pl.min_horizontal("original_width", "original_height")).to_series()
    for share in ((words > 2).mean(), (aspect <= 3).mean(), (shorter >= 200).mean()):
        assert 0.3 < share < 0.99


def test_captions_are_trimmed_and_not_all_ascii():
    texts = captions(rows(0, 5000), 0).to_pylist()
    assert all(text == text.strip() for text in texts)
    assert any(not text.isascii() for text in texts)
    assert len(set(texts)) > 4500
    assert min(map(len, texts)) == 0
