"""Lines between keep and drop, found over partitions, against sorting everything."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.artifact import parquet_bytes
from pipeline.engine import ClusterConfig, Engine
from pipeline.errors import RunError
from pipeline.progress import Reporter
from stages import binarize_fit
from stages.binarize_config import BinarizeConfig, Voter
from stages.binarize_fit import VoterFit, VoterScores, fit_voters, read_voters
from stages.kernels.cluster1d import Bins, Split
from tests.artifacts import with_file
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


def test_read_voters_reads_each_table_once_for_all_its_voters(tmp_path):
    hi, lo = random_uids(20)
    step, weight = np.zeros(20), np.full(20, 0.1)
    table = make_scores(tmp_path / "s", hi, lo, np.arange(20), step=step, weight=weight)
    other = make_scores(tmp_path / "t", hi, lo, -np.arange(20))
    config = BinarizeConfig()
    voters = [
        *config.voters_of("s", 1, "batched"),
        voter(selector="t"),
        voter(selector="s", scale="weight", method="threshold"),
        voter(selector="s", visit="mean", scale="batch_z"),
    ]
    found = dict(read_voters({"s": table, "t": other}, voters, 0))
    assert [found[place].values[0] for place in range(4)] == [0.025, 0.0, 2.0, pytest.approx(-1.6475, abs=1e-3)]
    assert all(np.array_equal(one.uid_hi, hi) for one in found.values())


def test_read_voters_unsorted_table_is_an_error(tmp_path):
    hi, lo = random_uids(4)
    table = make_scores(tmp_path / "s", hi, lo, np.arange(4))
    rows = table.read_table("bucket-00000.parquet").take([1, 0, 2, 3])
    table = with_file(table, "bucket-00000.parquet", parquet_bytes(rows))
    with pytest.raises(RunError, match=r"not sorted[\s\S]*uid [0-9a-f]{32}"):
        list(read_voters({"s": table}, [voter()], 0))
