"""What a rule sees of one bucket."""

from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from pipeline.artifact import ArtifactWriter
from pipeline.errors import RunError, UserError
from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages.select_frame import Frame, Sources, column_values, filter_column, read_missing
from tests.artifacts import commit
from tests.stages.uid_tables import make_pool, put_buckets, random_uids

N = 6


def make_sources(root, *, names=("p_keep", "mimic", "quality"), method="label_model", shift=0, seed=0):
    hi, lo = random_uids(N)
    missing = pa.table({"uid_hi": hi[:2] ^ np.uint64(1), "uid_lo": lo[:2], "quality": pa.array([0.5, None])})
    quality = pa.array([3.0, None, float("nan"), 1.0, 2.0, 3.0])
    pool = make_pool(root / "pool", hi, lo, metadata={"quality": quality, "text": pa.array(["x"] * N)}, missing=missing)
    decisions = pa.table(
        {
            "uid_hi": hi,
            "uid_lo": lo + np.uint64(shift),
            "p_keep": pa.array([0.5, 0.5, 0.9, 0.1, 0.5, 0.3], pa.float32()),
            "pattern": pa.array([1, 2, 2, 2, 2, 0], pa.uint64()),
            "mean_score": pa.array([0.2, 0.8, 0.1, 0.1, None, 0.4], pa.float32()),
            "score__mimic": pa.array([1, None, 3, 4, 5, 6], pa.float32()),
        }
    )
    files = put_buckets(ArtifactWriter(str(root / "decisions"), Storage()), decisions, 0)
    summary = {"scales": {"mimic": "batch_rank"}, "method": method}
    committed = commit(root / "decisions", "decisions", StageResult(files, summary))
    return Sources(pool, committed, names, (), seed)


def ranking(frame, name, direction="top"):
    values = frame.values(name)
    keys = frame.keys(values, direction)
    order = np.lexsort(keys.columns[::-1])[::-1]
    return [int(row) for row in order if values.present[row]]


def test_frame_decision_ranks_by_posterior_then_mean_score(tmp_path):
    frame = Frame(make_sources(tmp_path), 0)
    values = frame.values("p_keep")
    assert values.present.tolist() == [True] * 5 + [False]
    assert values.is_score
    assert ranking(frame, "p_keep") == [2, 1, 0, 4, 3]
    assert ranking(frame, "p_keep", "bottom") == [3, 4, 0, 1, 2]


def test_frame_decision_of_mean_scores_is_absent_without_a_score(tmp_path):
    frame = Frame(make_sources(tmp_path, method="mean_score"), 0)
    assert frame.values("p_keep").present.tolist() == [True, True, True, True, False, True]


def test_frame_selector_and_metadata_values(tmp_path):
    frame = Frame(make_sources(tmp_path), 0)
    mimic, quality = frame.values("mimic"), frame.values("quality")
    assert (mimic.is_score, quality.is_score) == (True, False)
    assert mimic.present.tolist() == [True, False, True, True, True, True]
    assert quality.present.tolist() == [True, False, False, True, True, True]
    assert ranking(frame, "quality") == [0, 5, 4, 3]
    assert ranking(frame, "quality", "bottom") == [3, 4, 0, 5]


def test_frame_random_depends_on_seed_and_uid_alone(tmp_path):
    first = Frame(make_sources(tmp_path / "a", names=("random",)), 0).values("random")
    again = Frame(make_sources(tmp_path / "b", names=("random",)), 0).values("random")
    other = Frame(make_sources(tmp_path / "c", names=("random",), seed=1), 0).values("random")
    assert np.array_equal(first.keys[0], again.keys[0])
    assert not np.array_equal(first.keys[0], other.keys[0])
    assert first.present.all()


def test_frame_of_other_samples_than_the_decisions_is_an_error(tmp_path):
    Frame(make_sources(tmp_path / "same"), 0, with_uids=True)
    with pytest.raises(RunError, match="do not list the same samples"):
        Frame(make_sources(tmp_path / "shifted", shift=1), 0, with_uids=True)


def test_frame_of_fewer_samples_than_the_decisions_is_an_error_at_once(tmp_path):
    sources = make_sources(tmp_path)
    hi, lo = random_uids(N - 1)
    fewer = make_pool(tmp_path / "fewer", hi, lo)
    with pytest.raises(RunError, match=r"do not list the same samples[\s\S]*the 5 uids"):
        Frame(replace(sources, pool=fewer, names=("p_keep",)), 0)


def test_frame_place_orders_as_uids_do_over_all_buckets(tmp_path):
    hi, lo = random_uids(200)
    pool = make_pool(tmp_path, hi, lo, bits=3)
    sources = Sources(pool, make_sources(tmp_path / "d").decisions, (), (), 0)
    frames = [Frame(sources, bucket, with_uids=True) for bucket in range(8)]
    place = np.concatenate([frame.place for frame in frames])
    assert [len(frame) for frame in frames] == [len(frame.uids[0]) for frame in frames]
    assert np.array_equal(np.concatenate([frame.uids[0] for frame in frames]), hi)
    assert (place[1:] > place[:-1]).all()


def test_absent_values_are_not_present_and_numbers_stay_what_they_are():
    values = column_values(pl.Series("x", [1.5, None, float("nan"), -0.0], dtype=pl.Float64))
    assert values.present.tolist() == [True, False, False, True]
    assert values.numbers[[0, 3]].tolist() == [1.5, 0.0]
    assert column_values(pl.Series("n", [3, 1, 2])).numbers.tolist() == [3.0, 1.0, 2.0]


def test_frame_reads_only_what_the_rule_names(tmp_path):
    sources = make_sources(tmp_path, names=("width",), shift=1)  # decisions that do not fit are not looked at
    frame = Frame(sources, 0)
    assert frame.table.columns == ["width"]
    assert frame.values("width").numbers.tolist() == [64.0] * N


def test_sources_check_refuses_names_and_filter_columns_that_nothing_has(tmp_path):
    sources = make_sources(tmp_path)
    sources.check(["text"])
    with pytest.raises(UserError, match=r"original_width[\s\S]*mimic[\s\S]*quality, text"):
        sources.check(["text", "original_width"])
    with pytest.raises(UserError, match="neither a selector nor a column: sharpness"):
        make_sources(tmp_path / "x", names=("sharpness",)).check([])


def test_read_missing_are_the_rows_without_a_sample(tmp_path):
    rows = read_missing(make_sources(tmp_path).pool, 0, ["quality"])
    assert rows["quality"].to_list() == [0.5, None]


@pytest.mark.parametrize("kind", [pl.Int8, pl.Int64, pl.UInt8, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64])
def test_column_values_of_every_number_type_rank_alike(kind):
    values = column_values(pl.Series("q", [3, None, 1, 2], dtype=kind))
    assert values.present.tolist() == [True, False, True, True]
    present = values.keys[0][values.present]
    assert np.argsort(present).tolist() == [1, 2, 0]
    assert values.numbers[values.present].tolist() == [3.0, 1.0, 2.0]


def test_column_values_of_booleans_and_of_nan():
    assert column_values(pl.Series("q", [True, None, False])).numbers.tolist() == [1.0, 0.0, 0.0]
    values = column_values(pl.Series("q", [float("nan"), -0.0, 0.0]))
    assert values.present.tolist() == [False, True, True]
    assert values.keys[0][1] == values.keys[0][2]


@pytest.mark.parametrize("column", [["a", "b"], [[1.0], [2.0]], [{"x": 1}, {"x": 2}]])
def test_column_values_of_something_else_are_refused(column):
    with pytest.raises(UserError, match="'q' cannot be ranked"):
        column_values(pl.Series("q", column))


def test_filter_column_names_the_place_of_the_clause():
    assert [filter_column(path) for path in ((), (0,), (2, 11))] == ["basic", "basic_0", "basic_2_11"]
