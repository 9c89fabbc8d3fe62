import copy
import subprocess
import sys

import pytest

from stages.report.findings import findings

SUMMARY = {
    "pool": {
        "samples": 8192,
        "quarantined": 40,
        "quarantine_reasons": {"truncated_image": 25, "no_caption": 10, "bad_json": 5},
        "missing": 0,
    },
    "scores": {"coverage": 0.995, "by_selector": {"mimic": {}, "loss": {}}},
    "select": {"kept": 2446, "dropped": {"below": 5000, "unscored": 706}},
    "reference": {"verdict": "informative", "spearman": 0.416, "samples": 1024},
    "label_model": {
        "method": "label_model",
        "retention": 0.4,
        "voters": [{"name": "mimic__0", "accuracy": 0.91}, {"name": "loss__0", "accuracy": 0.7}],
    },
    "evaluation": {
        "results": [
            {"model": "mimic", "epoch": 0, "dataset": "d", "metric": "acc1", "value": 0.9},
            {"model": "mimic", "epoch": None, "dataset": "d", "metric": "acc1", "value": 0.61},
            {"model": "kept", "epoch": None, "dataset": "d", "metric": "acc1", "value": 0.7},
            {"model": "random", "epoch": None, "dataset": "d", "metric": "acc1", "value": 0.64},
        ]
    },
    "truth": {
        "mimic_auc": 0.91,
        "loss_auc": 0.94,
        "clip_score_auc": None,
        "p_keep_auc": 0.93,
        "kept_clean_share": 0.81,
        "pool_clean_share": 0.62,
        "judged": 7000,
    },
}


def _with(**changes):
    summary = copy.deepcopy(SUMMARY)
    summary.update(changes)
    return summary


def test_findings_are_five_lines_that_end_in_a_full_stop():
    lines = findings(SUMMARY)
    assert len(lines) == 5
    assert all(line.endswith(".") and "\n" not in line for line in lines)


def test_findings_flow_names_the_figures_and_the_main_reasons():
    line = findings(SUMMARY)[0]
    assert "8,192 samples came in: 2,446 kept (29.9%), 5,706 dropped, 40 quarantined" in line
    assert "(25 truncated image, 10 no caption, 5 other)" in line
    assert "bad json" not in line


def test_findings_name_the_winner_even_if_it_is_a_baseline():
    line = findings(SUMMARY)[1]
    assert "mimic 0.910, loss 0.940; best is loss" in line
    assert "p_keep 0.930" in line
    assert "81.0% of the kept ones against 62.0% of the pool (+19.0 points)" in line


def test_findings_name_mimic_where_it_wins():
    assert "best is mimic" in findings(_with(truth={**SUMMARY["truth"], "loss_auc": 0.8}))[1]


def test_findings_without_truth_speak_of_coverage_only():
    summary = _with()
    del summary["truth"]
    line = findings(summary)[1]
    assert "99.5%" in line
    assert "mimic, loss" in line


@pytest.mark.parametrize(
    ("verdict", "words"), [("uninformative", "distrust"), ("inverted", "wrong way"), ("informative", "does better")]
)
def test_findings_say_what_the_reference_check_means(verdict, words):
    line = findings(_with(reference={"verdict": verdict, "spearman": 0.01, "samples": 1024}))[2]
    assert verdict in line
    assert words in line


def test_findings_label_model_names_most_and_least_trusted():
    line = findings(SUMMARY)[3]
    assert "mimic__0 to be right most often (91%)" in line
    assert "loss__0 least (70%)" in line


def test_findings_mean_score_claims_no_learned_accuracy():
    model = {"method": "mean_score", "retention": None, "voters": [{"name": "mimic__0", "accuracy": None}]}
    assert findings(_with(label_model=model))[3] == "The mean score decided over 1 voters."


def test_findings_evaluation_takes_final_weights_and_compares_kept_with_random():
    line = findings(SUMMARY)[4]
    assert line == (
        "Evaluation (zero-shot accuracy): on d kept 70.0%, random 64.0%, mimic 61.0%. "
        "Trained on the kept subset against a random one: +6.0 points on d."
    )


def test_findings_without_reference_and_evaluation_say_so():
    lines = findings(_with(reference=None, evaluation=None))
    assert lines[2] == "No reference was used."
    assert lines[4] == "No model was evaluated."


def test_findings_of_empty_pool_divide_by_nothing():
    pool = {"samples": 0, "quarantined": 0, "quarantine_reasons": {}, "missing": 3}
    line = findings(_with(pool=pool, select={"kept": 0, "dropped": {}}))[0]
    assert "0 samples came in: 0 kept (none)" in line
    assert "3 rows of the metadata" in line


def test_findings_with_truth_of_no_judged_sample_claim_nothing():
    truth = {"mimic_auc": None, "p_keep_auc": None, "kept_clean_share": None, "pool_clean_share": None}
    line = findings(_with(truth=truth))[1]
    assert line.startswith("Truth is known for no scored sample of both kinds")
    assert "best" not in line


def test_findings_of_one_selector_name_no_winner():
    truth = {"mimic_auc": 0.5, "kept_clean_share": None, "pool_clean_share": None}
    line = findings(_with(truth=truth))[1]
    assert line.endswith("mimic 0.500.")
    assert "best" not in line


def test_findings_say_when_the_filter_makes_it_worse():
    line = findings(_with(truth={**SUMMARY["truth"], "kept_clean_share": 0.5}))[1]
    assert "(-12.0 points)" in line


def test_findings_list_unknown_selectors_after_the_known_ones():
    truth = {**SUMMARY["truth"], "another_auc": 0.99}
    assert "mimic 0.910, loss 0.940, another 0.990; best is another" in findings(_with(truth=truth))[1]


def test_findings_module_imports_nothing_heavy():
    code = "import sys, stages.report.findings; print({'torch', 'ray', 'polars', 'plotly'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_training_of_an_earlier_run_is_told_with_what_it_never_saw() -> None:
    passes = [{"method": "mimic", "rows": 900}, {"method": "score", "rows": 70}, {"method": "score", "rows": 30}]
    mimic = {**SUMMARY["scores"]["by_selector"].get("mimic", {}), "passes": passes}
    scores = {**SUMMARY["scores"], "by_selector": {**SUMMARY["scores"]["by_selector"], "mimic": mimic}}
    told = findings({**SUMMARY, "scores": scores})
    assert len(told) == 5
    assert told[1].endswith(
        "Training is that of an earlier run; 100 samples that came later were scored by its model alone."
    )
    assert not findings(SUMMARY)[1].endswith("alone.")
