import hashlib
import json
import re
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture(scope="module")
def metadata(demo):
    return pa.concat_tables(pq.read_table(path) for path in sorted(demo.metadata.glob("*.parquet")))


def test_columns_are_datacomps(metadata):
    assert metadata.schema.names == [
        "uid", "url", "text", "original_width", "original_height", "sha256", "clip_b32_similarity_score",
        "clip_l14_similarity_score", "face_bboxes",
    ]  # fmt: skip
    assert metadata.schema.field("clip_l14_similarity_score").type == pa.float64()
    assert metadata["uid"].null_count == metadata["text"].null_count == 0


def test_files_are_named_by_32_hex_digits(demo):
    assert all(re.fullmatch(r"[0-9a-f]{32}\.parquet", path.name) for path in demo.metadata.iterdir())


def test_one_row_a_uid_and_a_few_without_a_sample(demo, metadata):
    uids = metadata["uid"].to_pylist()
    assert len(set(uids)) == len(uids)
    known = set(pq.read_table(demo.truth)["uid"].to_pylist())
    assert known < set(uids)
    assert len(set(uids) - known) == 3


def test_row_describes_the_stored_picture(demo, metadata):
    rows = {row["uid"]: row for row in metadata.to_pylist()}
    with tarfile.open(sorted(demo.shards.glob("*.tar"))[0]) as tar:
        picture = tar.extractfile(tar.next()).read()
        facts = json.loads(tar.extractfile(tar.next()).read())
    row = rows[facts["uid"]]
    assert row["sha256"] == facts["sha256"] == hashlib.sha256(picture).hexdigest()
    assert (row["text"], row["url"]) == (facts["caption"], facts["url"])
    assert (row["original_width"], row["original_height"]) == (facts["original_width"], facts["original_height"])


@pytest.mark.parametrize("scorer", ["b32", "l14"])
def test_scores_are_cosines(metadata, scorer):
    scores = metadata[f"clip_{scorer}_similarity_score"].to_numpy()
    assert np.abs(scores).max() <= 1 + 1e-6
    assert len(np.unique(scores)) > 200
