"""Decisions against Snorkel on the expanded matrix, plain means, and other partitionings."""

import numpy as np
import pyarrow as pa
import pytest
from snorkel.labeling.model import LabelModel

from pipeline.artifact import ArtifactWriter
from pipeline.errors import UserError
from pipeline.rates import RatesConfig
from pipeline.stage import Size, StageResult
from pipeline.storage import Storage
from stages import aggregate_counts
from stages.aggregate import AggregateConfig, AggregateStage
from stages.binarize import BinarizeConfig, BinarizeStage, VoterConfig
from tests.artifacts import commit, run_stage
from tests.stages.uid_tables import make_pool, make_scores, put_buckets, random_uids, read_all

N = 800


RATES = RatesConfig().model_dump()


def make_votes(root, matrix, *, bits=0, fraction=0.5, selectors=None):
    """Votes [n, m] as an artifact, and their uids."""
    hi, lo = random_uids(len(matrix))
    selectors = selectors or [f"s{voter}" for voter in range(matrix.shape[1])]
    names = [f"{selector}__0" for selector in selectors]
    table = pa.table({"uid_hi": hi, "uid_lo": lo, **dict(zip(names, matrix.astype(np.int8).T, strict=True))})
    files = put_buckets(ArtifactWriter(str(root), Storage()), table, bits)
    voters = [
        {"name": name, "selector": selector, "visit": 0, "method": "top_fraction", "fraction": fraction, "scale": "raw"}
        for name, selector in zip(names, selectors, strict=True)
    ]
    summary = {"voters": voters, "rows": len(matrix), "bucket_bits": bits}
    return commit(root, "votes", StageResult(files, summary)), hi, lo


def noisy_votes(n=N, accuracies=(0.9, 0.75, 0.6, 0.8), abstain=0.15, seed=0):
    """Truth [n], and conditionally independent votes on it [n, m]."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.4
    right = rng.random((n, len(accuracies))) < np.asarray(accuracies)
    votes = np.where(right, truth[:, None], ~truth[:, None]).astype(int)
    votes[rng.random(votes.shape) < abstain] = -1
    return truth, votes


def aggregate(root, votes, config, scores=None, **kwargs):
    return run_stage(AggregateStage(config), root, "decisions", inputs={"votes": votes, **(scores or {})}, **kwargs)


@pytest.mark.parametrize("seed", [0, 7])
def test_decisions_label_model_equals_snorkel_on_the_expanded_matrix(tmp_path, seed):
    _, matrix = noisy_votes(seed=seed)
    votes, _, _ = make_votes(tmp_path / "votes", matrix, bits=3)
    decisions = aggregate(tmp_path / "d", votes, AggregateConfig(class_balance=0.4, steps=300), seed=seed)
    stock = LabelModel(verbose=False)
    stock.fit(matrix, class_balance=[0.6, 0.4], n_epochs=300, lr=0.01, optimizer="adam", seed=seed, progress_bar=False)
    p_keep = read_all(decisions)["p_keep"].to_numpy()
    assert p_keep == pytest.approx(stock.predict_proba(matrix)[:, 1], abs=1e-6)
    accuracies = [voter["accuracy"] for voter in decisions.summary["voters"]]
    assert accuracies == pytest.approx(stock.get_weights().tolist(), abs=1e-6)


def test_decisions_label_model_trusts_the_better_voter(tmp_path):
    truth, matrix = noisy_votes(n=5000)
    votes, _, _ = make_votes(tmp_path / "votes", matrix)
    decisions = aggregate(tmp_path / "d", votes, AggregateConfig())
    accuracies = [voter["accuracy"] for voter in decisions.summary["voters"]]
    assert np.argsort(accuracies).tolist() == [2, 1, 3, 0]
    right = (read_all(decisions)["p_keep"].to_numpy() > 0.5) == truth
    majority = np.where(matrix == -1, 0, 2 * matrix - 1).sum(axis=1) > 0
    assert right.mean() > (majority == truth).mean()


def test_decisions_default_prior_is_keep_votes_over_cast_votes(tmp_path):
    _, matrix = noisy_votes()
    votes, _, _ = make_votes(tmp_path / "votes", matrix)
    decisions = aggregate(tmp_path / "d", votes, AggregateConfig())
    assert decisions.summary["prior"] == (matrix == 1).sum() / (matrix >= 0).sum()


def test_decisions_all_abstaining_sample_gets_the_prior_and_pattern_zero(tmp_path):
    _, matrix = noisy_votes()
    matrix[5] = -1
    votes, _, _ = make_votes(tmp_path / "votes", matrix)
    decisions = aggregate(tmp_path / "d", votes, AggregateConfig(class_balance=0.3))
    row = read_all(decisions).slice(5, 1).to_pylist()[0]
    assert row["pattern"] == 0
    assert row["p_keep"] == pytest.approx(0.3, abs=1e-6)


def test_decisions_diagnostics_count_coverage_overlap_conflict(tmp_path):
    matrix = np.asarray([[1, 1, -1], [1, 0, -1], [-1, -1, 0], [-1, 1, 1], [-1, -1, -1]])
    votes, _, _ = make_votes(tmp_path / "votes", matrix, bits=1)
    decisions = aggregate(tmp_path / "d", votes, AggregateConfig(method="majority"))
    found = [[voter[key] for key in ("coverage", "overlap", "conflict")] for voter in decisions.summary["voters"]]
    assert found == [[0.4, 0.4, 0.2], [0.6, 0.6, 0.2], [0.4, 0.2, 0.0]]
    assert decisions.summary["patterns"] == 5
    assert decisions.summary["voted"] == 4
    assert decisions.summary["retention"] == 2 / 4
    model = decisions.read_json("label_model.json")
    assert {tuple(each["votes"]): each["rows"] for each in model["common_patterns"]} == {
        tuple(row): 1 for row in matrix.tolist()
    }


def test_decisions_majority_is_the_share_of_votes_that_keep(tmp_path):
    matrix = np.asarray([[1, 1], [1, 0], [0, -1], [-1, -1]])
    votes, _, _ = make_votes(tmp_path / "votes", matrix)
    decisions = aggregate(tmp_path / "d", votes, AggregateConfig(method="majority", class_balance=0.25))
    assert read_all(decisions)["p_keep"].to_pylist() == [1.0, 0.5, 0.0, 0.25]


def test_decisions_auto_with_two_voters_says_that_the_majority_decides(tmp_path, capsys):
    _, matrix = noisy_votes(accuracies=(0.9, 0.8))
    votes, _, _ = make_votes(tmp_path / "votes", matrix)
    decisions = aggregate(tmp_path / "d", votes, AggregateConfig())
    assert decisions.summary["method"] == "majority"
    assert "the majority decides" in capsys.readouterr().err


def test_aggregate_label_model_with_two_voters_is_refused(tmp_path):
    _, matrix = noisy_votes(accuracies=(0.9, 0.8))
    votes, _, _ = make_votes(tmp_path / "votes", matrix)
    with pytest.raises(UserError, match="at least 3 voters, there are 2"):
        aggregate(tmp_path / "d", votes, AggregateConfig(method="label_model"))


def test_aggregate_nobody_voted_is_refused(tmp_path):
    votes, _, _ = make_votes(tmp_path / "votes", np.full((10, 3), -1))
    with pytest.raises(UserError, match="nobody voted"):
        aggregate(tmp_path / "d", votes, AggregateConfig())


def test_aggregate_unanimous_votes_bound_the_prior_and_warn(tmp_path, capsys):
    votes, _, _ = make_votes(tmp_path / "votes", np.ones((10, 3), int))
    decisions = aggregate(tmp_path / "d", votes, AggregateConfig())
    assert decisions.summary["prior"] == 0.99
    assert np.isfinite(read_all(decisions)["p_keep"].to_numpy()).all()
    assert "prior is taken as 0.99" in capsys.readouterr().err


def test_decisions_silent_voter_has_no_accuracy(tmp_path):
    _, matrix = noisy_votes()
    matrix[:, 2] = -1
    votes, _, _ = make_votes(tmp_path / "votes", matrix)
    decisions = aggregate(tmp_path / "d", votes, AggregateConfig())
    assert decisions.summary["voters"][2]["accuracy"] is None
    assert np.isfinite(read_all(decisions)["p_keep"].to_numpy()).all()


@pytest.fixture
def chain(tmp_path):
    """Pool and scores, binarized: `mimic` by rank in 3 visits, `clip` raw for three quarters of the samples."""

    def build(bits, config=None):
        root = tmp_path / f"bits-{bits}"
        hi, lo = random_uids(N)
        rng = np.random.default_rng(3)
        sample, visit = np.tile(np.arange(N), 3), np.repeat(np.arange(3), N)
        step = visit * 100 + rng.permutation(3 * N) % 25
        some = rng.permutation(N)[: 3 * N // 4]
        pool = make_pool(root / "pool", hi, lo, bits=bits)
        scores = {
            "scores/mimic": make_scores(
                root / "mimic", hi[sample], lo[sample], rng.normal(size=3 * N), bits=bits, visit=visit, step=step
            ),
            "scores/clip": make_scores(root / "clip", hi[some], lo[some], rng.gamma(1, 1, len(some)), bits=bits),
        }
        stage = BinarizeStage(config or BinarizeConfig())
        return root, run_stage(stage, root / "votes", "votes", inputs={"pool": pool, **scores}), scores

    return build


def test_decisions_scores_are_means_over_visits_on_the_voters_scale(chain):
    root, votes, scores = chain(2)
    table = read_all(aggregate(root / "d", votes, AggregateConfig(), scores)).to_pydict()
    rows = read_all(scores["scores/mimic"]).to_pydict()
    ranks: dict[int, list[float]] = {}
    for uid, rank in zip(rows["uid_lo"], rows["rank"], strict=True):
        ranks.setdefault(uid, []).append(rank)
    wanted = [np.mean(ranks[uid]) for uid in table["uid_lo"]]
    assert table["score__mimic"] == pytest.approx(wanted, abs=1e-7)
    raw = dict(zip(*(read_all(scores["scores/clip"])[name].to_pylist() for name in ("uid_lo", "score")), strict=True))
    assert table["score__clip"] == [raw.get(uid) for uid in table["uid_lo"]]


def test_decisions_mean_score_of_one_selector_keeps_its_order(chain):
    root, votes, scores = chain(1, BinarizeConfig(voters={"clip": VoterConfig()}))
    table = read_all(aggregate(root / "d", votes, AggregateConfig(method="mean_score"), scores))
    scored = table.filter(table["score__clip"].is_valid())
    by_score = np.argsort(scored["score__clip"].to_numpy(), kind="stable")
    assert (np.diff(scored["p_keep"].to_numpy()[by_score]) >= 0).all()
    assert 0 < scored["p_keep"].to_numpy().min() < 0.01 < 0.99 < scored["p_keep"].to_numpy().max() < 1
    assert table["mean_score"].null_count == N // 4


def test_decisions_selector_that_does_not_vote_has_its_score_but_no_say(chain):
    root, votes, scores = chain(0, BinarizeConfig(voters={"clip": VoterConfig()}))
    both = read_all(aggregate(root / "both", votes, AggregateConfig(method="mean_score"), scores))
    alone = {"scores/clip": scores["scores/clip"]}
    one = read_all(aggregate(root / "one", votes, AggregateConfig(method="mean_score"), alone))
    assert both["p_keep"].equals(one["p_keep"])
    assert both["score__mimic"].null_count == 0


@pytest.mark.parametrize("method", ["label_model", "mean_score"])
def test_decisions_do_not_depend_on_the_number_of_buckets(chain, method):
    tables, summaries = [], []
    for bits in (0, 4):
        root, votes, scores = chain(bits)
        decisions = aggregate(root / method, votes, AggregateConfig(method=method), scores)
        tables.append(read_all(decisions))
        summaries.append({**decisions.summary, "bucket_bits": None})
    assert tables[0].equals(tables[1])
    assert summaries[0] == summaries[1]


def test_aggregate_scores_beyond_the_votes_are_an_error(tmp_path):
    _, matrix = noisy_votes(n=20)
    votes, hi, lo = make_votes(tmp_path / "votes", matrix)
    scores = make_scores(tmp_path / "s0", hi, lo + np.uint64(1), np.arange(20))
    with pytest.raises(Exception, match="without votes"):
        aggregate(tmp_path / "d", votes, AggregateConfig(), {"scores/s0": scores})


def test_aggregate_config_checks_the_number_of_voters():
    for bad in (0, 41):
        with pytest.raises(ValueError, match="vote"):
            AggregateConfig().check_num_voters(bad)
    with pytest.raises(ValueError, match="at least 3"):
        AggregateConfig(method="label_model").check_num_voters(2)
    AggregateConfig(method="label_model").check_num_voters(3)
    AggregateConfig(method="mean_score").check_num_voters(1)
    assert [AggregateConfig().resolved(n) for n in (2, 3)] == ["majority", "label_model"]


@pytest.mark.parametrize("field", [{"class_balance": 1.0}, {"class_balance": 0.0}, {"steps": 0}, {"method": "vote"}])
def test_aggregate_config_impossible_values_are_refused(field):
    with pytest.raises(ValueError):
        AggregateConfig.model_validate(field)


def test_aggregate_plan_memory_does_not_grow_with_the_pool():
    plans = [AggregateStage(AggregateConfig()).plan({"votes": Size(n, n)}, RATES) for n in (2**24, 2**30)]
    assert plans[0].peak_task_bytes == plans[1].peak_task_bytes < 2**30
    assert plans[1].output.rows == 2**30


def test_decisions_of_more_patterns_than_are_held_are_the_same_but_for_how_many_there_are(tmp_path, monkeypatch):
    _, matrix = noisy_votes()
    votes, _, _ = make_votes(tmp_path / "votes", matrix, bits=3)
    monkeypatch.setattr(aggregate_counts, "_GROUPS", 2)
    whole = aggregate(tmp_path / "whole", votes, AggregateConfig(steps=20))
    monkeypatch.setattr(aggregate_counts, "_HELD_PATTERNS", 5)
    cut = aggregate(tmp_path / "cut", votes, AggregateConfig(steps=20))
    assert read_all(cut).equals(read_all(whole))
    assert {**whole.summary, "patterns": None} == dict(cut.summary)
    assert whole.summary["patterns"] == len({tuple(row) for row in matrix.tolist()})
