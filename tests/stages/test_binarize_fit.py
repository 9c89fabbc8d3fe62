"""Lines between keep and drop, found over partitions, against sorting everything."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.progress import Reporter
from stages import binarize_fit
from stages.binarize_config import Voter
from stages.binarize_fit import VoterFit, fit_voters
from stages.binarize_values import VoterScores
from stages.kernels.cluster1d import Bins, Split
from tests.stages.uid_tables import make_scores, random_uids

ENGINE = Engine(ClusterConfig(executor="in_process"), Reporter())


def voter(method="top_fraction", *, selector="s", visit=0, fraction=0.5, of="scored", scale="raw", threshold=0.0):
    return Voter(selector, visit, method, fraction, of, scale, threshold)


def scores_of(values, seed=0):
    hi, lo = random_uids(len(values), seed)
    return VoterScores(hi, lo, np.asarray(values, np.float32))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.sampled_from([-2.0, -0.0, 0.0, 0.5, 0.5000001, 7.0]), min_size=1, max_size=40),
    fraction=st.sampled_from([0.01, 0.29, 0.5, 1.0]),
    bits=st.integers(0, 3),
    seed=st.integers(0, 5),
)
def test_fit_top_fraction_equals_sorting_for_any_bucketing(tmp_path_factory, values, fraction, bits, seed):
    hi, lo = random_uids(len(values), seed)
    table = make_scores(tmp_path_factory.mktemp("t") / "s", hi, lo, values, bits=bits)
    (fit,) = fit_voters(ENGINE, {"s": table}, [voter(fraction=fraction)], num_buckets=1 << bits, pool_rows=len(values))
    votes = fit.votes(VoterScores(hi, lo, np.asarray(values, np.float32)))
    order = np.lexsort((lo, hi, -np.asarray(values, np.float32)))
    k = {0.01: 0, 0.29: 29 * len(values) // 100, 0.5: len(values) // 2, 1.0: len(values)}[fraction]
    assert np.flatnonzero(votes == 1).tolist() == sorted(order[:k].tolist())
    assert fit.scored == len(values)


def test_fit_many_voters_share_the_passes(tmp_path):
    hi, lo = random_uids(3000)
    rng = np.random.default_rng(0)
    sample, visit = np.tile(np.arange(3000), 4), np.repeat(np.arange(4), 3000)
    table = make_scores(tmp_path / "s", hi[sample], lo[sample], rng.normal(size=12_000), bits=2, visit=visit)
    methods = ["top_fraction", "kmeans", "gmm", "threshold"]
    voters = [voter(method, visit=place, fraction=0.3) for place, method in enumerate(methods)]
    counting = _CountingEngine()
    together = fit_voters(counting, {"s": table}, voters, num_buckets=4, pool_rows=3000)
    assert len(counting.names) == 2  # counts and ranges, then one refinement: few candidates are collected at once
    alone = [fit_voters(ENGINE, {"s": table}, [one], num_buckets=4, pool_rows=3000)[0] for one in voters]
    assert [fit.threshold for fit in together] == [fit.threshold for fit in alone]


class _CountingEngine(Engine):
    def __init__(self):
        super().__init__(ClusterConfig(executor="in_process"), Reporter())
        self.names = []

    def map(self, task, items, *, name, **options):
        self.names.append(name)
        return super().map(task, items, name=name, **options)


@pytest.mark.parametrize("histograms", [1, 512])
def test_fit_does_not_depend_on_how_buckets_are_grouped(tmp_path, monkeypatch, histograms):
    hi, lo = random_uids(2000)
    values = np.random.default_rng(1).choice(np.linspace(0, 1, 7), 2000)
    table = make_scores(tmp_path / "s", hi, lo, values, bits=5)
    monkeypatch.setattr(binarize_fit, "_HISTOGRAMS", histograms)
    voters = [voter(fraction=0.37), voter("gmm")]
    fits = fit_voters(ENGINE, {"s": table}, voters, num_buckets=32, pool_rows=2000)
    scores = VoterScores(hi, lo, values.astype(np.float32))
    assert (fits[0].votes(scores) == 1).sum() == 740
    assert fits[1].votes(scores).tolist() == (values.astype(np.float32) >= np.float32(fits[1].threshold)).tolist()


def test_fit_voter_without_any_score_has_no_line(tmp_path):
    hi, lo = random_uids(10)
    table = make_scores(tmp_path / "s", hi, lo, np.arange(10))
    for method in ("top_fraction", "kmeans", "gmm"):
        (fit,) = fit_voters(ENGINE, {"s": table}, [voter(method, visit=7)], num_buckets=1, pool_rows=10)
        assert (fit.scored, fit.threshold) == (0, None)
        assert len(fit.votes(scores_of([]))) == 0


@pytest.mark.parametrize(("of", "kept"), [("scored", 5), ("pool", 10)])
def test_fit_base_is_the_voters_or_the_pools(tmp_path, of, kept):
    hi, lo = random_uids(10)
    table = make_scores(tmp_path / "s", hi, lo, np.arange(10))
    (fit,) = fit_voters(ENGINE, {"s": table}, [voter(of=of)], num_buckets=1, pool_rows=20)
    assert fit.votes(VoterScores(hi, lo, np.arange(10, dtype=np.float32))).sum() == kept


def test_voter_fit_threshold_is_strict():
    fit = VoterFit(voter("threshold", threshold=0.1))
    assert fit.votes(scores_of([0.1, 0.10000001, 0.2, -1])).tolist() == [0, 1, 1, 0]
    assert fit.threshold == 0.1


def test_voter_fit_split_keeps_from_its_bin_on():
    fit = VoterFit(voter("kmeans"), bins=Bins(0.0, 65536.0), split=Split(100, (1.0, 9.0), (1.0, 1.0), 0.5))
    assert fit.votes(scores_of([99.9, 100.0, 100.1])).tolist() == [0, 1, 1]
    assert fit.threshold == 100.0


def sorted_votes(values, hi, lo, fraction):
    order = np.lexsort((lo, hi, -values))[: int(fraction * len(values))]
    return np.isin(np.arange(len(values)), order)


@pytest.mark.parametrize("spread", [3, 100_000])
def test_fit_large_table_is_settled_by_a_sample_and_one_pass(tmp_path, monkeypatch, spread):
    monkeypatch.setattr(binarize_fit, "MAX_COLLECTED", 1000)
    monkeypatch.setattr(binarize_fit, "SAMPLE_ROWS", 2000)
    hi, lo = random_uids(20_000)
    values = np.random.default_rng(2).integers(0, spread, 20_000).astype(np.float32)
    table = make_scores(tmp_path / "s", hi, lo, values, bits=3)
    counting = _CountingEngine()
    (fit,) = fit_voters(counting, {"s": table}, [voter(fraction=0.4)], num_buckets=8, pool_rows=20_000)
    assert counting.names == ["binarize: counts"]
    assert np.array_equal(fit.votes(VoterScores(hi, lo, values)) == 1, sorted_votes(values, hi, lo, 0.4))


@pytest.mark.parametrize("most", [0, 40])
def test_fit_whose_bracket_misses_or_holds_too_much_takes_more_passes_and_finds_the_same(tmp_path, monkeypatch, most):
    monkeypatch.setattr(binarize_fit, "MAX_COLLECTED", 0)
    monkeypatch.setattr(binarize_fit, "SAMPLE_ROWS", 64)
    monkeypatch.setattr(binarize_fit, "expected_inside", lambda *_: 0)
    monkeypatch.setattr(binarize_fit, "MAX_INSIDE", most)
    hi, lo = random_uids(6000)
    values = np.sort(np.random.default_rng(2).choice(np.linspace(0, 1, 900), 6000)).astype(np.float32)
    sample, visit = np.tile(np.arange(6000), 2), np.repeat([0, 1], 6000)
    table = make_scores(tmp_path / "s", hi[sample], lo[sample], np.tile(values, 2), bits=3, visit=visit)
    counting = _CountingEngine()  # sorted by uid: what a few buckets hold says nothing of the others
    fits = fit_voters(
        counting, {"s": table}, [voter(fraction=0.3), voter(visit=1, fraction=0.9)], num_buckets=8, pool_rows=6000
    )
    assert "binarize: refine" in counting.names
    for fit, fraction in zip(fits, (0.3, 0.9), strict=True):
        assert np.array_equal(fit.votes(VoterScores(hi, lo, values)) == 1, sorted_votes(values, hi, lo, fraction))


def test_fit_without_bracket_counts_digits(tmp_path, monkeypatch):
    monkeypatch.setattr(binarize_fit, "MAX_COLLECTED", 0)
    monkeypatch.setattr(binarize_fit, "MAX_INSIDE", 0)
    hi, lo = random_uids(3000)
    values = np.random.default_rng(4).choice(np.linspace(0, 1, 5), 3000).astype(np.float32)
    table = make_scores(tmp_path / "s", hi, lo, values, bits=2)
    (fit,) = fit_voters(ENGINE, {"s": table}, [voter(fraction=0.5)], num_buckets=4, pool_rows=3000)
    assert np.array_equal(fit.votes(VoterScores(hi, lo, values)) == 1, sorted_votes(values, hi, lo, 0.5))
