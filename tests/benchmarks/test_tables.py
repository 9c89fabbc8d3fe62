"""Generated pools, score tables, votes and ledgers: what their readers expect, and the same rows at any cut."""

import numpy as np
import polars as pl
import pytest

from benchmarks.scale.draws import rows
from benchmarks.scale.ledgers import put_ledger
from benchmarks.scale.tables import is_good, put_pool, put_scores, put_votes, score_values, vote_values
from benchmarks.scale.uids import Uids
from pipeline.nodes import NoConfig
from pipeline.schema import POOL, SCORES, VOTES
from stages.aggregate import AggregateConfig, AggregateStage
from stages.binarize import BinarizeConfig, BinarizeStage
from stages.formats.ledger import LEDGER, stretches
from stages.kernels.uid import is_sorted
from stages.train.gather import GatherStage
from tests.artifacts import run_stage
from tests.stages.uid_tables import read_all

UIDS = Uids(1500, seed=7)


@pytest.mark.parametrize(
    ("put", "schema", "prefix"),
    [
        (put_pool, POOL, "index/bucket-"),
        (lambda *where: put_scores(*where, num_visits=3), SCORES, "bucket-"),
        (lambda *where: put_votes(*where, num_voters=4), VOTES, "bucket-"),
    ],
)
def test_table_is_the_same_rows_at_any_cut_sorted_by_uid(put, schema, prefix, tmp_path):
    one, many = (read_all(put(tmp_path / f"{bits}", UIDS, bits), prefix) for bits in (0, 3))
    assert one.equals(many)
    schema.check(one, "here")
    assert is_sorted(one["uid_hi"].to_numpy(), one["uid_lo"].to_numpy())
    assert len(np.unique(one["uid_lo"].to_numpy())) == UIDS.num_samples


def test_scores_have_ties_and_zeros_of_both_signs():
    values = score_values(rows(0, 20_000), seed=0)
    assert np.isfinite(values).all()
    distinct, counts = np.unique(values, return_counts=True)
    assert counts.max() > 10
    assert len(distinct) > 15_000
    assert {0, 1} == set(np.signbit(values[values == 0]).astype(int))


def test_scores_and_votes_tell_good_from_bad():
    rank = rows(0, 20_000)
    good = is_good(rank, 0)
    assert score_values(rank, 0)[good].mean() > score_values(rank, 0)[~good].mean() + 0.9
    votes = vote_values(rank, 0, voter=1)
    assert 0.13 < (votes == -1).mean() < 0.17
    cast = votes >= 0
    assert 0.6 < (votes[cast] == good[cast]).mean() < 0.8


def test_votes_are_aggregated_by_the_stage(tmp_path):
    votes = put_votes(tmp_path / "votes", UIDS, 2, num_voters=5)
    decisions = run_stage(AggregateStage(AggregateConfig()), tmp_path / "d", "decisions", inputs={"votes": votes})
    good = is_good(rows(0, UIDS.num_samples), UIDS.seed)
    p_keep = read_all(decisions)["p_keep"].to_numpy()
    assert ((p_keep > 0.5) == good).mean() > 0.7


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    return put_ledger(tmp_path_factory.mktemp("training"), UIDS, 3, batch_size=64, num_ranks=2)


def test_ledger_has_every_sample_once_a_visit_in_whole_batches(ledger):
    frame = pl.concat([pl.from_arrow(ledger.read_table(file.path)) for file in ledger.files("ledger/")])
    assert frame.to_arrow().schema.names == LEDGER.names
    for visit in range(3):
        mine = frame.filter(pl.col("visit") == visit)
        assert sorted(mine["uid_lo"]) == sorted(UIDS.lo(rows(0, 1500)).tolist())
        sizes = mine.group_by("step").len().sort("step")
        assert sizes["step"].to_list() == list(range(visit * 24, visit * 24 + 24))
        assert sizes["len"].to_list() == [64] * 23 + [1500 - 23 * 64]
    first, second = (frame.filter(pl.col("step") == step)["uid_lo"].sort() for step in (0, 24))
    assert first.is_in(second.implode()).sum() < 20  # shuffled anew


def test_ledger_parts_cover_all_steps_for_both_ranks(ledger):
    (stretch,) = stretches(ledger.files("ledger/"), "here")
    assert (stretch.first_step, stretch.last_step, stretch.rows) == (0, 71, 4500)
    assert len(stretch.parts) == 2


def test_ledger_is_gathered_and_binarized_by_the_stages(ledger, tmp_path):
    pool = put_pool(tmp_path / "pool", UIDS, 2)
    scores = run_stage(
        GatherStage(NoConfig()), tmp_path / "s", "scores/mimic", inputs={"pool": pool, "training": ledger}
    )
    assert scores.summary["rows"] == 4500
    assert scores.summary["scored"] == 1500
    inputs = {"pool": pool, "scores/mimic": scores}
    votes = run_stage(BinarizeStage(BinarizeConfig(fraction=0.4)), tmp_path / "v", "votes", inputs=inputs)
    assert [voter["keep"] for voter in votes.summary["voters"]] == [600] * 3
    good = is_good(rows(0, 1500), UIDS.seed)
    assert (read_all(votes)["mimic__0"].to_numpy() == good).mean() > 0.65
