"""What the evaluation's figures say in words, and against guessing."""

import pytest

from stages.report.evaluations import evaluation_line, guessing, in_order, latest_metrics

SETS = {
    "colours": {"kind": "classification", "main_metric": "acc1", "classes": 10},
    "digits": {"kind": "classification", "main_metric": "acc1", "classes": 10},
    "pairs": {"kind": "retrieval", "main_metric": "mean_recall@1", "classes": None},
}


def _evaluation(values, sets=SETS):
    """Of {(model, data set, metric): value}."""
    results = [
        {"model": model, "epoch": None, "dataset": data_set, "metric": metric, "value": value}
        for (model, data_set, metric), value in values.items()
    ]
    return {"summary": {"data_sets": sets}, "results": results}


def test_line_names_every_set_and_says_where_models_only_guess():
    found = _evaluation(
        {
            ("mimic", "colours", "acc1"): 0.82,
            ("base", "colours", "acc1"): 0.752,
            ("mimic", "digits", "acc1"): 0.096,
            ("base", "digits", "acc1"): 0.102,
            ("mimic", "pairs", "mean_recall@1"): 0.17,
        }
    )
    assert evaluation_line(found) == (
        "Evaluation (zero-shot accuracy): on colours mimic 82.0%, base 75.2% (guessing gives 10.0%); "
        "on digits base 10.2%, mimic 9.6%, no better than guessing (10.0%)."
    )


def test_line_compares_kept_with_random_on_each_set_better_or_worse():
    found = _evaluation(
        {
            ("kept", "colours", "acc1"): 0.838,
            ("random", "colours", "acc1"): 0.68,
            ("kept", "digits", "acc1"): 0.2,
            ("random", "digits", "acc1"): 0.21,
        }
    )
    assert evaluation_line(found).endswith(
        "Trained on the kept subset against a random one: +15.8 points on colours, -1.0 points on digits."
    )


def test_line_of_many_sets_gives_their_mean():
    sets = {f"s{n}": {"kind": "classification", "main_metric": "acc1", "classes": 4} for n in range(4)}
    gains = {"kept": 0.1, "random": 0.0}
    values = {(model, f"s{n}", "acc1"): 0.2 * n + gain for n in range(4) for model, gain in gains.items()}
    line = evaluation_line(_evaluation(values, sets))
    assert "mean of 4 data sets): kept 40.0%, random 30.0%" in line
    assert "+10.0 points" in line


def test_line_takes_the_metric_by_which_a_set_is_judged():
    sets = {"pets": {"kind": "classification", "main_metric": "mean_per_class_recall", "classes": 37}}
    values = {("m", "pets", "acc1"): 0.5, ("m", "pets", "mean_per_class_recall"): 0.4}
    line = evaluation_line(_evaluation(values, sets))
    assert "mean per class recall" in line
    assert "40.0%" in line
    assert "50.0%" not in line


def test_line_of_retrieval_alone_names_its_metric():
    line = evaluation_line(_evaluation({("m", "pairs", "mean_recall@1"): 0.25}))
    assert line == "Evaluation (mean recall@1): on pairs m 25.0%."


def test_line_of_nothing_says_so():
    assert evaluation_line(None) == evaluation_line({"results": []}) == "No model was evaluated."


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (("colours", "acc1"), 0.1),
        (("colours", "acc5"), 0.5),
        (("colours", "mean_per_class_recall"), 0.1),
        (("pairs", "mean_recall@1"), None),
        (("elsewhere", "acc1"), None),
    ],
)
def test_guessing_is_one_answer_in_so_many(metric, expected):
    assert guessing(_evaluation({}), metric) == expected


def test_guessing_among_few_classes_is_certain_at_most():
    assert guessing(_evaluation({}, {"two": {"classes": 2}}), ("two", "acc5")) == 1.0


def test_metrics_are_ordered_with_numbers_as_numbers():
    metrics = [("d", name) for name in ("recall@10", "recall@1", "recall@5", "acc1")]
    assert [name for _, name in in_order(metrics)] == ["acc1", "recall@1", "recall@5", "recall@10"]


def test_latest_metrics_without_final_weights_takes_the_last_epoch():
    rows = [{"model": "m", "epoch": e, "dataset": "d", "metric": "acc1", "value": e / 10} for e in (2, 0, 1)]
    assert latest_metrics(rows) == {"m": {("d", "acc1"): 0.2}}
