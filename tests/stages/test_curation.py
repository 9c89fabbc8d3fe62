"""Scores to subset through binarize, aggregate and select: the same bytes whatever the cut into buckets."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from stages.aggregate import AggregateConfig, AggregateStage
from stages.binarize import BinarizeConfig, BinarizeStage
from stages.select import SelectConfig, SelectStage
from tests.artifacts import run_stage
from tests.stages.uid_tables import make_pool, make_scores, random_uids, read_all

N = 1200
BATCH = 40


class Chain:
    """A pool whose samples are good or bad, and three selectors that tell so with different noise."""

    def __init__(self, root, bits):
        rng = np.random.default_rng(11)
        self.root, self.bits = root / f"bits-{bits}", bits
        self.hi, self.lo = random_uids(N, seed=4)
        self.good = rng.random(N) < 0.5
        clip = np.where(self.good, 0.3, 0.2) + rng.normal(0, 0.08, N)
        self.pool = make_pool(self.root / "pool", self.hi, self.lo, bits=bits, metadata={"clip": pa.array(clip)})
        self.scores = {
            "scores/mimic": self._trained("mimic", 1.0, rng),
            "scores/loss": self._trained("loss", 1.5, rng),
            "scores/clip_score": make_scores(self.root / "clip_score", self.hi, self.lo, clip, bits=bits),
        }

    def _trained(self, name, noise, rng):
        """Two visits in shuffled batches; every batch has its own offset, which only ranks within it undo."""
        sample = np.concatenate([rng.permutation(N), rng.permutation(N)[: N - 5 * BATCH]])
        visit = np.repeat([0, 1], [N, N - 5 * BATCH])
        step = np.arange(len(sample)) // BATCH
        offset = rng.normal(0, 20, step.max() + 1)
        score = self.good[sample] + rng.normal(0, noise, len(sample)) + offset[step]
        weight = np.exp(score - offset[step])
        weight /= np.bincount(step, weight)[step]
        return make_scores(
            self.root / name,
            self.hi[sample],
            self.lo[sample],
            score,
            bits=self.bits,
            visit=visit,
            step=step,
            weight=weight,
        )

    def run(self, name, binarize, aggregate, rule, **select):
        """Votes, decisions and the subset."""
        folder = self.root / name
        votes = run_stage(BinarizeStage(binarize), folder / "votes", "votes", inputs={"pool": self.pool, **self.scores})
        stage = AggregateStage(aggregate)
        decisions = run_stage(stage, folder / "decisions", "decisions", inputs={"votes": votes, **self.scores})
        config = SelectConfig.model_validate({"rule": rule, **select})
        inputs = {"pool": self.pool, "decisions": decisions, **self.scores}
        return votes, decisions, run_stage(SelectStage(config), folder / "subset", "subset", inputs=inputs)

    def clean_share(self, subset):
        ids = np.load(subset.uri("sample_ids.npy"))
        return self.good[np.isin(self.lo, ids["f1"])].mean()


HALF = {"top": {"by": "p_keep", "fraction": 0.5, "of": "scored"}}
MIXED = {"all": [{"top": {"by": "clip", "fraction": 0.8}}, {"not": {"bottom": {"by": "mimic", "fraction": 0.1}}}, HALF]}


@pytest.mark.parametrize("method", ["label_model", "majority", "mean_score"])
def test_curation_bytes_of_the_subset_do_not_depend_on_buckets(tmp_path, method):
    results = [
        Chain(tmp_path, bits).run(method, BinarizeConfig(fraction=0.5), AggregateConfig(method=method), MIXED)
        for bits in (0, 3)
    ]
    for one, many in zip(*results, strict=True):
        assert {**one.summary, "bucket_bits": None} == {**many.summary, "bucket_bits": None}
    assert results[0][2].read_bytes("sample_ids.npy") == results[1][2].read_bytes("sample_ids.npy")
    assert read_all(results[0][1]).equals(read_all(results[1][1]))


@pytest.mark.parametrize("method", ["label_model", "majority", "mean_score"])
def test_curation_keeps_better_samples_than_the_pool_has(tmp_path, method):
    chain = Chain(tmp_path, 1)
    _, decisions, subset = chain.run("half", BinarizeConfig(fraction=0.5), AggregateConfig(method=method), HALF)
    assert subset.summary["kept"] == N // 2
    assert chain.clean_share(subset) > chain.good.mean() + 0.2
    p_keep = read_all(decisions)["p_keep"].to_numpy()
    assert p_keep[chain.good].mean() > p_keep[~chain.good].mean() + 0.1


def test_curation_ranks_within_batches_beat_raw_scores(tmp_path):
    chain = Chain(tmp_path, 0)
    voters = {"mimic": {}, "loss": {}}
    shares = {}
    for scale in ("batch_rank", "batch_z", "weight", "raw"):
        binarize = BinarizeConfig.model_validate({"fraction": 0.5, "scale": scale, "voters": voters})
        shares[scale] = chain.clean_share(chain.run(scale, binarize, AggregateConfig(), HALF)[2])
    assert min(shares["batch_rank"], shares["batch_z"], shares["weight"]) > shares["raw"] + 0.1


def test_curation_every_sample_is_accounted_for(tmp_path):
    chain = Chain(tmp_path, 2)
    votes, decisions, subset = chain.run("all", BinarizeConfig(fraction=0.3), AggregateConfig(), MIXED)
    for artifact in (votes, decisions, subset):
        assert artifact.manifest.counts.seen == N
    assert subset.summary["kept"] + sum(subset.summary["dropped"].values()) == N
    for voter in votes.summary["voters"]:
        assert voter["keep"] + voter["drop"] + voter["abstain"] == N
    names = [voter["name"] for voter in votes.summary["voters"]]
    assert names == ["clip_score__0", "loss__0", "loss__1", "mimic__0", "mimic__1"]
    table = read_all(votes)
    for voter in votes.summary["voters"]:
        assert (table[voter["name"]].to_numpy() == 1).sum() == voter["keep"] == 3 * (N - voter["abstain"]) // 10


def test_curation_again_gives_the_same_bytes(tmp_path):
    chain = Chain(tmp_path, 1)
    first = chain.run("first", BinarizeConfig(method="gmm"), AggregateConfig(), MIXED)
    again = chain.run("again", BinarizeConfig(method="gmm"), AggregateConfig(), MIXED)
    assert [a.manifest.content for a in first] == [a.manifest.content for a in again]


def test_curation_golden_subset(tmp_path):
    chain = Chain(tmp_path, 2)
    _, _, subset = chain.run("golden", BinarizeConfig(fraction=0.5), AggregateConfig(method="majority"), HALF)
    assert hashlib.sha256(subset.read_bytes("sample_ids.npy")).hexdigest()[:32] == "70f0da3319ee96dcbaf6dc9966a99be4"
