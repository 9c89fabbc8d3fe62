import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.progress import Reporter
from stages.report import auc
from stages.report.auc import doubled_wins, exact_aucs, ranges_of
from stages.report.survey import survey
from stages.report.truth import Truth
from stages.report.view import P_KEEP, Pool, Source
from tests.stages.report.synthetic import make_run


def _engine():
    return Engine(ClusterConfig(executor="in_process"), Reporter())


def _pool(run):
    names = [role.split("/")[1] for role in run.inputs if role.startswith("scores/")]
    sources = [Source.of_scores(name, run.inputs[f"scores/{name}"]) for name in names]
    sources.append(Source.of_decisions(run.inputs["decisions"]))
    return Pool(
        run.inputs["pool"], run.inputs["subset"], tuple(sources), Truth(run.inputs["pool"].storage, str(run.truth))
    )


def _areas(run):
    pool = _pool(run)
    return exact_aucs(_engine(), pool, survey(_engine(), pool).tally.means)


@pytest.mark.parametrize("name", ["mimic", "loss", "clip_score", P_KEEP])
def test_auc_of_each_source_equals_sklearn(finished, name):
    judged = ~finished.trusted & ~np.isnan(finished.means[name])
    expected = roc_auc_score(~finished.mismatched[judged], finished.means[name][judged])
    assert _areas(finished)[name] == pytest.approx(expected, abs=1e-12)


def test_auc_of_many_small_ranges_is_the_same_number(finished, monkeypatch):
    whole = _areas(finished)
    original = auc.ranges_of
    monkeypatch.setattr(auc, "ranges_of", lambda name, bins, counts: original(name, bins, counts, 5))
    assert _areas(finished) == whole


def test_auc_of_other_bucket_cut_is_the_same_number(finished, tmp_path):
    assert _areas(make_run(tmp_path, bits=0)) == _areas(finished)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60))
@settings(max_examples=60)
def test_doubled_wins_of_tied_values_equals_sklearn(rows):
    values, positive = np.array([v for v, _ in rows]), np.array([p for _, p in rows])
    distinct = np.unique(values)
    counts = np.stack([[((values == v) & (positive == p)).sum() for v in distinct] for p in (False, True)], axis=1)
    negatives, positives = counts.sum(axis=0).tolist()
    if negatives and positives:
        area = doubled_wins(counts) / (2 * negatives * positives)
        assert area == pytest.approx(roc_auc_score(positive, values), abs=1e-12)


def test_doubled_wins_of_huge_counts_does_not_overflow():
    half = 6_000_000_000
    counts = np.array([[half, 0], [half, half], [0, half]], np.int64)
    assert doubled_wins(counts) == half * 2 * 2 * half + half * (2 * half + half)


def test_ranges_join_neighbours_up_to_the_limit_and_skip_pure_bins():
    bins = np.array([3, 4, 7, 9, 12])
    counts = np.array([[1, 1], [5, 0], [2, 1], [1, 3], [9, 9]])
    assert [(r.first, r.last, r.rows) for r in ranges_of("x", bins, counts, 6)] == [(3, 7, 5), (9, 9, 4), (12, 12, 18)]


def test_auc_without_any_mismatched_sample_is_none(tmp_path):
    import pyarrow.parquet as pq

    run = make_run(tmp_path, 60, bits=0)
    table = pq.read_table(run.truth)
    nothing = table.set_column(2, "mismatched", [[False] * table.num_rows])
    pq.write_table(nothing, run.truth)
    assert set(_areas(run).values()) == {None}
