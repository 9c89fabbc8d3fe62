"""Votes against plain sorting, for every method, base, scale and partitioning."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import RunError, UserError
from pipeline.rates import RatesConfig
from pipeline.stage import Size
from stages.binarize import BinarizeConfig, BinarizeStage, VoterConfig
from stages.kernels import patterns
from tests.artifacts import run_stage
from tests.stages.uid_tables import make_pool, make_scores, random_uids, read_all

N = 600
RATES = RatesConfig().model_dump()


@pytest.fixture
def world(tmp_path):
    """A pool of N samples: `mimic` in 3 visits with gaps, `clip` with ties for a part of the samples."""

    def build(bits):
        root = tmp_path / f"bits-{bits}"
        hi, lo = random_uids(N)
        rng = np.random.default_rng(1)
        pool = make_pool(root / "pool", hi, lo, bits=bits)
        sample = np.concatenate([rng.permutation(N)[: N - 50 * visit] for visit in range(3)])
        visit = np.concatenate([np.full(N - 50 * v, v) for v in range(3)])
        step = visit * 100 + np.arange(len(visit)) // 32
        score = rng.normal(step % 7, 1).astype(np.float32)
        weight = rng.uniform(0, 2 / 32, len(visit)).astype(np.float32)
        mimic = make_scores(
            root / "mimic", hi[sample], lo[sample], score, bits=bits, visit=visit, step=step, weight=weight
        )
        some = rng.permutation(N)[:400]
        clip = make_scores(root / "clip", hi[some], lo[some], rng.choice([0.1, 0.2, 0.3], 400), bits=bits)
        return root, pool, {"scores/mimic": mimic, "scores/clip": clip}

    return build


def binarize(built, config, **kwargs):
    root, pool, scores = built
    out = root / f"votes-{hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:8]}-{len(kwargs)}"
    return run_stage(BinarizeStage(config), out, "votes", inputs={"pool": pool, **scores}, **kwargs)


def column(table, name):
    return table[name].to_numpy()


def test_votes_top_fraction_equal_sorting_by_rank_then_uid(world):
    built = world(2)
    votes = binarize(built, BinarizeConfig(fraction=0.29, voters={"mimic": VoterConfig()}))
    table = read_all(votes)
    scores = read_all(built[2]["scores/mimic"])
    assert table.column_names == ["uid_hi", "uid_lo", "mimic__0", "mimic__1", "mimic__2"]
    for visit in range(3):
        rows = scores.filter(pa.array(column(scores, "visit") == visit))
        order = np.lexsort((column(rows, "uid_lo"), column(rows, "uid_hi"), -column(rows, "rank")))
        kept = {int(uid) for uid in column(rows, "uid_lo")[order[: 29 * rows.num_rows // 100]]}
        seen = {int(uid) for uid in column(rows, "uid_lo")}
        found = column(table, f"mimic__{visit}")
        wanted = [1 if uid in kept else 0 if uid in seen else -1 for uid in column(table, "uid_lo").tolist()]
        assert found.tolist() == wanted
        assert votes.summary["voters"][visit]["keep"] == 29 * (N - 50 * visit) // 100


def test_votes_top_fraction_ties_go_to_the_smaller_uid(world):
    built = world(1)
    votes = read_all(binarize(built, BinarizeConfig(fraction=0.5, voters={"clip": VoterConfig()})))
    scores = read_all(built[2]["scores/clip"])
    order = np.lexsort((column(scores, "uid_lo"), column(scores, "uid_hi"), -column(scores, "score")))
    kept = np.sort(column(scores, "uid_lo")[order[:200]])
    assert np.array_equal(np.sort(column(votes, "uid_lo")[column(votes, "clip__0") == 1]), kept)


@pytest.mark.parametrize(("base", "kept"), [("scored", 120), ("pool", 180)])
def test_votes_top_fraction_base_sets_the_count(world, base, kept):
    votes = binarize(world(0), BinarizeConfig(fraction=0.3, of=base, voters={"clip": VoterConfig()}))
    assert votes.summary["voters"][0] | {"keep": kept, "abstain": 200} == votes.summary["voters"][0]


def test_votes_fraction_beyond_the_scored_keeps_all_of_them(world):
    votes = binarize(world(0), BinarizeConfig(fraction=0.9, of="pool", voters={"clip": VoterConfig()}))
    assert [votes.summary["voters"][0][kind] for kind in ("keep", "drop", "abstain")] == [400, 0, 200]


def test_votes_threshold_keeps_above_the_uniform_weight(world):
    built = world(1)
    votes = read_all(binarize(built, BinarizeConfig(method="threshold", voters={"mimic": VoterConfig()})))
    scores = read_all(built[2]["scores/mimic"])
    above = column(scores, "weight") * column(scores, "batch").astype(np.float32) > 1
    assert sum((column(votes, f"mimic__{v}") == 1).sum() for v in range(3)) == above.sum() > 0


def test_votes_threshold_uniform_weight_itself_is_not_above(tmp_path):
    hi, lo = random_uids(21)
    step = np.repeat([0, 1, 2], 7)
    scores = make_scores(tmp_path / "mimic", hi, lo, np.arange(21), step=step, weight=np.full(21, 1 / 7))
    built = tmp_path, make_pool(tmp_path / "pool", hi, lo), {"scores/mimic": scores}
    votes = binarize(built, BinarizeConfig(method="threshold"))
    assert votes.summary["voters"][0]["keep"] == 0


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_votes_clusters_part_two_groups(tmp_path, method):
    hi, lo = random_uids(500)
    rng = np.random.default_rng(0)
    good = rng.random(500) < 0.3
    scores = make_scores(tmp_path / "clip", hi, lo, np.where(good, 5, 0) + rng.normal(0, 0.5, 500), bits=1)
    built = tmp_path, make_pool(tmp_path / "pool", hi, lo, bits=1), {"scores/clip": scores}
    votes = binarize(built, BinarizeConfig(method=method))
    assert np.array_equal(column(read_all(votes), "clip__0") == 1, good)
    assert 1 < votes.summary["voters"][0]["threshold"] < 4


def test_votes_clusters_of_one_value_abstain_and_warn(tmp_path, capsys):
    hi, lo = random_uids(50)
    scores = make_scores(tmp_path / "clip", hi, lo, np.ones(50))
    built = tmp_path, make_pool(tmp_path / "pool", hi, lo), {"scores/clip": scores}
    votes = binarize(built, BinarizeConfig(method="gmm"))
    assert votes.summary["voters"][0]["abstain"] == 50
    assert votes.summary["voters"][0]["threshold"] is None
    assert "clip__0 abstains" in capsys.readouterr().err


def test_votes_gaussians_that_do_not_cross_between_their_means_abstain_and_warn(tmp_path, capsys):
    """A narrow heap on a wide one of the same middle: no line parts good from bad, whatever the fraction."""
    hi, lo = random_uids(10_000)
    rng = np.random.default_rng(0)
    score = np.concatenate([rng.normal(0, 0.1, 5000), rng.normal(0, 5, 5000)])
    scores = make_scores(tmp_path / "clip", hi, lo, score)
    built = tmp_path, make_pool(tmp_path / "pool", hi, lo), {"scores/clip": scores}
    votes = binarize(built, BinarizeConfig(method="gmm"))
    assert votes.summary["voters"][0]["abstain"] == 10_000
    assert (column(read_all(votes), "clip__0") == patterns.ABSTAIN).all()
    assert "clip__0 abstains: gmm found no line between two clusters" in capsys.readouterr().err


@pytest.mark.parametrize("choice", ["mean", "last"])
def test_votes_of_the_mean_or_last_visit_are_one_voter(world, choice):
    built = world(2)
    table = read_all(binarize(built, BinarizeConfig(fraction=0.5, visits=choice, voters={"mimic": VoterConfig()})))
    scores = read_all(built[2]["scores/mimic"]).to_pydict()
    values: dict[tuple[int, int], list[float]] = {}
    for uid_hi, uid_lo, rank in zip(scores["uid_hi"], scores["uid_lo"], scores["rank"], strict=True):
        values.setdefault((uid_hi, uid_lo), []).append(rank)
    one = {uid: np.float32(np.mean(v) if choice == "mean" else v[-1]) for uid, v in values.items()}
    kept = set(sorted(one, key=lambda uid: (-one[uid], uid))[: len(one) // 2])
    uids = list(zip(table["uid_hi"].to_pylist(), table["uid_lo"].to_pylist(), strict=True))
    assert [uid in kept for uid in uids] == (column(table, f"mimic__{choice}") == 1).tolist()


def test_votes_listed_visits_vote_alone(world):
    table = read_all(binarize(world(0), BinarizeConfig(visits=[2, 0])))
    assert table.column_names[2:] == ["clip__0", "mimic__2", "mimic__0"]


MIXED = BinarizeConfig(
    fraction=0.4,
    voters={"mimic": VoterConfig(visits="all", scale="batch_z"), "clip": VoterConfig(method="kmeans", visits="last")},
)


def test_votes_do_not_depend_on_the_number_of_buckets(world):
    one, many = binarize(world(0), MIXED), binarize(world(4), MIXED)
    assert read_all(one).equals(read_all(many))
    assert {**one.summary, "bucket_bits": 4} == many.summary


def test_votes_do_not_depend_on_how_many_candidates_are_collected(world, monkeypatch):
    built = world(2)
    collected = read_all(binarize(built, MIXED))
    monkeypatch.setattr("stages.kernels.radix.MAX_COLLECTED", 0)
    digits = binarize((built[0] / "digits", *built[1:]), MIXED)
    assert read_all(digits).equals(collected)


@pytest.mark.ray
def test_votes_on_ray_equal_votes_in_process(world, ray_engine):
    built = world(1)
    on_ray = binarize(built, MIXED, engine=ray_engine)
    assert on_ray.manifest.content == binarize(built, MIXED).manifest.content


def test_votes_golden_bytes_of_the_columns(tmp_path):
    hi = np.arange(1, 9, dtype=np.uint64) << np.uint64(60)
    lo = np.arange(8, dtype=np.uint64)
    scores = make_scores(tmp_path / "loss", hi, lo, [-0.0, 0.0, 3, -1, 2, 2, 2, -5], bits=2)
    built = tmp_path, make_pool(tmp_path / "pool", hi, lo, bits=2), {"scores/loss": scores}
    votes = read_all(binarize(built, BinarizeConfig(fraction=0.62)))
    assert votes["loss__0"].to_pylist() == [0, 0, 1, 0, 1, 1, 1, 0]
    votes = read_all(binarize(built, BinarizeConfig(fraction=0.63)))
    assert votes["loss__0"].to_pylist() == [1, 0, 1, 0, 1, 1, 1, 0]


def test_binarize_nan_score_names_the_file(tmp_path):
    hi, lo = random_uids(5)
    scores = make_scores(tmp_path / "clip", hi, lo, [0, 1, np.nan, 3, 4])
    with pytest.raises(RunError, match=r"clip/bucket-00000.parquet"):
        binarize((tmp_path, make_pool(tmp_path / "pool", hi, lo), {"scores/clip": scores}), BinarizeConfig())


def test_binarize_score_of_an_unknown_sample_is_an_error(tmp_path):
    hi, lo = random_uids(5)
    scores = make_scores(tmp_path / "clip", hi, lo, np.arange(5))
    pool = make_pool(tmp_path / "pool", hi[:4], lo[:4])
    with pytest.raises(RunError, match="not in the pool"):
        binarize((tmp_path, pool, {"scores/clip": scores}), BinarizeConfig())


def test_binarize_two_scores_of_one_visit_are_an_error(tmp_path):
    hi, lo = random_uids(4)
    scores = make_scores(tmp_path / "clip", np.append(hi, hi[2]), np.append(lo, lo[2]), np.arange(5))
    with pytest.raises(RunError, match="twice"):
        binarize((tmp_path, make_pool(tmp_path / "pool", hi, lo), {"scores/clip": scores}), BinarizeConfig())


def test_binarize_batched_scores_without_rank_are_raw_and_warned_of(tmp_path, capsys):
    hi, lo = random_uids(10)
    scores = make_scores(tmp_path / "loss", hi, lo, np.arange(10))
    object.__setattr__(scores.manifest, "summary", {**scores.summary, "batched": True})
    built = tmp_path, make_pool(tmp_path / "pool", hi, lo), {"scores/loss": scores}
    votes = binarize(built, BinarizeConfig(fraction=0.5))
    assert votes.summary["voters"][0]["scale"] == "raw"
    assert "loss: raw scores of different batches" in capsys.readouterr().err


def test_binarize_threshold_on_unbatched_scores_needs_a_number(world):
    with pytest.raises(UserError, match="clip: its scores belong to no batch"):
        binarize(world(0), BinarizeConfig(method="threshold", voters={"clip": VoterConfig()}))


def test_binarize_plan_memory_does_not_grow_with_the_pool():
    stage = BinarizeStage(BinarizeConfig())
    peaks = [
        stage.plan({"pool": Size(n, n), "scores/mimic": Size(5 * n, n)}, RATES).peak_task_bytes for n in (2**24, 2**30)
    ]
    assert peaks[0] == peaks[1] < 2**30
