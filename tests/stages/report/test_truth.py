import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.kernels.uid import bucket_of
from stages.report.truth import Truth


def _truth(path, rows):
    columns = {"ills": [[]], "mismatched": [False], "clean": [True], "trusted": [False], "true_caption": ["t"]}
    table = pa.table(
        {
            "uid": [row["uid"] for row in rows],
            **{name: [row.get(name, value[0]) for row in rows] for name, value in columns.items()},
        }
    )
    pq.write_table(table, path)
    return Truth(Storage(), str(path))


def test_truth_flags_of_known_uids_equal_what_was_planted(finished):
    verdicts = Truth(Storage(), str(finished.truth)).read(2, range(4))
    flags = verdicts.of(finished.hi, finished.lo)
    assert np.array_equal(flags, np.stack([finished.mismatched, finished.clean, finished.trusted], axis=1))


def test_truth_of_some_buckets_knows_only_theirs(finished):
    verdicts = Truth(Storage(), str(finished.truth)).read(2, [1])
    assert set(bucket_of(verdicts.hi, 2).tolist()) == {1}
    known = verdicts.of(finished.hi, finished.lo)[:, 0] >= 0
    assert np.array_equal(known, bucket_of(finished.hi, 2) == 1)


def test_truth_of_unknown_uid_is_minus_one(tmp_path):
    verdicts = _truth(tmp_path / "t.parquet", [{"uid": "2"}]).read(0, [0])
    assert verdicts.of(np.array([0, 0], np.uint64), np.array([1, 2], np.uint64)).tolist() == [[-1, -1, -1], [0, 1, 0]]


def test_truth_of_duplicated_uid_takes_the_first_row(tmp_path):
    rows = [{"uid": "B"}, {"uid": "a", "mismatched": True}, {"uid": "000a"}]
    verdicts = _truth(tmp_path / "t.parquet", rows).read(0, [0])
    assert verdicts.lo.tolist() == [10, 11]
    assert verdicts.of(np.zeros(1, np.uint64), np.array([10], np.uint64))[0, 0] == 1


def test_truth_details_of_wanted_uids_only(finished):
    uids = finished.uids
    details = Truth(Storage(), str(finished.truth)).details([uids[5], "0" * 32])
    assert set(details) == {uids[5]}
    assert details[uids[5]][1] == "true caption of 5"


def test_truth_without_a_column_is_refused_by_name(tmp_path):
    pq.write_table(pa.table({"uid": ["a"], "ills": [["x"]]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="mismatched, clean, trusted, true_caption"):
        Truth(Storage(), str(tmp_path / "t.parquet")).check()
