import numpy as np

from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.progress import Reporter
from stages.report.survey import NUM_BARS, survey
from stages.report.view import MISMATCHED, NUM_LABELS, OTHER, P_KEEP, UNJUDGED, BucketView
from tests.stages.report.synthetic import make_run
from tests.stages.report.test_auc import _pool


def _survey(run):
    return survey(Engine(ClusterConfig(executor="in_process"), Reporter()), _pool(run))


def test_survey_clean_counts_equal_brute_force(finished):
    clean = _survey(finished).tally.clean
    judged = ~finished.trusted
    for fate in (False, True):
        for verdict in (False, True):
            expected = (judged & (finished.kept == fate) & (finished.clean == verdict)).sum()
            assert clean[int(fate), int(verdict)] == expected


def test_survey_means_count_every_scored_sample_by_fate_and_label(finished):
    means = _survey(finished).tally.means
    label = np.where(finished.trusted, UNJUDGED, np.where(finished.mismatched, MISMATCHED, OTHER))
    for name, values in finished.means.items():
        scored = ~np.isnan(values)
        expected = np.bincount((finished.kept * NUM_LABELS + label)[scored], minlength=6)
        assert means[name].counts.sum(axis=0).tolist() == expected.tolist()


def test_survey_histogram_equals_numpys_inside_its_frame(finished):
    found = _survey(finished)
    table = finished.inputs["scores/mimic"]
    for visit in range(3):
        histogram = found.histograms["mimic", visit]
        parts = list(table.tables("bucket-", ["visit", "score"]))
        score = np.concatenate([p["score"].to_numpy()[p["visit"].to_numpy() == visit] for p in parts])
        bars = histogram.counts.sum(axis=1)
        edges = np.linspace(histogram.low, histogram.high, NUM_BARS + 1)
        assert bars.sum() == len(score)
        assert bars[1:-1].tolist() == np.histogram(score.astype(float), edges)[0][1:-1].tolist()


def test_survey_of_one_bucket_equals_that_of_four(finished, tmp_path):
    one, four = _survey(make_run(tmp_path, bits=0)), _survey(finished)
    assert one.histograms.keys() == four.histograms.keys()
    for visit, histogram in one.histograms.items():
        assert np.array_equal(histogram.counts, four.histograms[visit].counts)
    assert np.array_equal(one.tally.clean, four.tally.clean)


def test_survey_without_truth_judges_nobody(finished):
    pool = _pool(finished)
    blind = type(pool)(pool.index, pool.subset, pool.sources, None)
    found = survey(Engine(ClusterConfig(executor="in_process"), Reporter()), blind)
    assert found.tally.clean.sum() == 0
    by_label = found.tally.means[P_KEEP].counts.reshape(-1, 2, NUM_LABELS).sum(axis=(0, 1))
    assert by_label.tolist() == [len(finished.hi), 0, 0]


def test_view_means_are_those_of_the_comparable_scale(finished):
    views = list(_pool(finished).views(range(4)))
    for name, expected in finished.means.items():
        found = np.concatenate([view.means()[name] for view in views])
        assert np.allclose(found, expected, atol=1e-6, equal_nan=True)


def test_view_fates_follow_the_subset(finished):
    views: list[BucketView] = list(_pool(finished).views(range(4)))
    assert np.array_equal(np.concatenate([view.kept for view in views]), finished.kept)
    assert all((view.reason.to_pylist()[i] == "kept") == view.kept[i] for view in views for i in range(5))
