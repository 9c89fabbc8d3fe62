"""The page's figures in words, and the tables that it makes of facts."""

import pytest

from stages.report.page import _areas, _count, _evaluation, _figure, _flow, _percent, _seconds, _words

NONE = "\N{EN DASH}"
FACTS = {
    "pool": {"samples": 10, "quarantined": 1, "quarantine_reasons": {"no_caption": 1}},
    "select": {"kept": 4, "dropped": {"unscored": 1, "below": 3, "above": 1}},
}


def test_flow_shares_are_of_samples_seen_and_add_up():
    streams = _flow(FACTS)
    assert [(stream.name, stream.samples) for stream in streams] == [("kept", 4), ("dropped", 5), ("quarantined", 1)]
    assert sum(stream.share for stream in streams) == pytest.approx(1)


def test_flow_reasons_come_largest_first_and_ties_by_name():
    assert _flow(FACTS)[1].reasons == [("below", 3), ("above", 1), ("unscored", 1)]


def test_flow_of_an_empty_pool_divides_by_nothing():
    empty = {"pool": {"samples": 0, "quarantined": 0, "quarantine_reasons": {}}, "select": {"kept": 0, "dropped": {}}}
    assert [stream.share for stream in _flow(empty)] == [0, 0, 0]


@pytest.mark.parametrize("facts", [{}, {"truth": None}, {"truth": {"mimic_auc": None, "kept_clean_share": 0.9}}])
def test_areas_without_truth_or_figure_are_none(facts):
    assert _areas(facts) == []


def test_areas_come_best_first_whoever_it_is():
    truth = {"mimic_auc": 0.8, "loss_auc": 0.9, "p_keep_auc": 0.85, "judged": 7}
    assert _areas({"truth": truth}) == [("loss", 0.9), ("p_keep", 0.85), ("mimic", 0.8)]


def test_evaluation_leaves_a_gap_where_a_model_was_not_measured():
    rows = [("a", "acc1", 0.5), ("b", "acc1", 0.6), ("b", "recall", 0.7)]
    results = [{"model": m, "epoch": None, "dataset": "d", "metric": k, "value": v} for m, k, v in rows]
    models, rows = _evaluation({"evaluation": {"results": results}})
    assert models == ["a", "b"]
    assert [(row.metric, row.values) for row in rows] == [("acc1", [0.5, 0.6]), ("recall", [None, 0.7])]
    assert {row.guessing for row in rows} == {None}


def test_evaluation_that_is_off_is_an_empty_table():
    assert _evaluation({"evaluation": None}) == ([], [])


@pytest.mark.parametrize(
    ("write", "value", "written"),
    [
        (_count, 1234567, "1,234,567"),
        (_count, 0, "0"),
        (_count, None, NONE),
        (_percent, 0.0, "0.0%"),
        (_percent, 1, "100.0%"),
        (_percent, None, NONE),
        (_figure, -0.0001, "0.000"),
        (_figure, -0.5, "-0.500"),
        (_figure, None, NONE),
        (_seconds, 59.94, "59.9 s"),
        (_seconds, 60, "1.0 min"),
        (_seconds, 59.96, "1.0 min"),
        (_seconds, 3599, "1.0 h"),
        (_seconds, 3600, "1.0 h"),
        (_words, "p_keep", "p_keep"),
        (_words, "reference_clip_score", "reference clip score"),
        (_words, "acc1", "zero-shot accuracy"),
    ],
)
def test_figures_are_written_for_people(write, value, written):
    assert write(value) == written
