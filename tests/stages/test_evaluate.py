import json

import pytest

from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.evaluate import EvaluateStage, _key, main_metric
from stages.evaluate_config import EvaluateConfig
from stages.evaluate_data import DataSet
from stages.models.build import build_model
from tests.artifacts import listed, run_stage
from tests.stages.evaluation_sets import knowing_model, training, write_sets
from tests.stages.models.tiny import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    write_sets(root)
    return root


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    good, bad = knowing_model(), build_model(TINY, seed=0)
    return {
        "training/mimic": training(root / "mimic", "training/mimic", good, [bad, good]),
        "training/base": training(root / "base", "training/base", bad, [bad]),
        "reference": training(root / "reference", "reference", good),
    }


def _run(folder, inputs, root, **changes):
    stage = EvaluateStage(EvaluateConfig(data=str(folder), **changes))
    return run_stage(stage, root, "evaluation", inputs=inputs, external={"data": listed(folder)})


@pytest.fixture(scope="module")
def evaluation(folder, inputs, tmp_path_factory):
    return _run(folder, inputs, tmp_path_factory.mktemp("evaluation"))


def _values(evaluation):
    rows = evaluation.read_json("results.json")
    return {(row["model"], row["epoch"], row["dataset"], row["metric"]): row["value"] for row in rows}


def test_model_that_knows_the_colours_scores_full_marks(evaluation):
    values = _values(evaluation)
    for metric in ("acc1", "acc5", "mean_per_class_recall"):
        assert values["mimic", None, "colours", metric] == 1.0
    assert values["mimic", None, "pairs", "mean_recall@1"] == 1.0
    assert values["base", None, "colours", "acc1"] < 1.0


def test_every_model_and_epoch_has_every_metric(evaluation):
    found = {(model, epoch) for model, epoch, _, _ in _values(evaluation)}
    assert found == {("mimic", 0), ("mimic", 1), ("mimic", None), ("base", 0), ("base", None), ("reference", None)}
    assert len(_values(evaluation)) == 6 * (3 + 7)


def test_equal_weights_have_equal_figures_and_are_run_once(evaluation):
    values = _values(evaluation)
    for (model, epoch, data_set, metric), value in values.items():
        if (model, epoch) in (("mimic", 1), ("reference", None)):
            assert value == values["mimic", None, data_set, metric]
        if (model, epoch) in (("mimic", 0), ("base", 0)):
            assert value == values["base", None, data_set, metric]
    assert evaluation.summary["models_evaluated"] == 2


def test_lines_are_datacomps_with_the_main_metric(evaluation):
    lines = [json.loads(line) for line in evaluation.read_bytes("eval_results.jsonl").splitlines()]
    assert [line["key"] for line in lines] == ["colours", "pairs"]
    assert lines[0]["metrics"]["main_metric"] == lines[0]["metrics"]["acc1"] == 1.0
    assert lines[1]["metrics"]["main_metric"] == lines[1]["metrics"]["mean_recall@1"]
    assert set(lines[0]) == {"key", "dataset", "metrics"}
    base = json.loads(evaluation.read_bytes("models/base/eval_results.jsonl").splitlines()[0])
    assert base["metrics"]["acc1"] == _values(evaluation)["base", None, "colours", "acc1"]


def test_summary_gives_the_main_metric_by_model(evaluation):
    main = evaluation.summary["main_metric"]
    assert main.keys() == {"mimic", "base", "reference"}
    assert main["mimic"] == {"colours": 1.0, "pairs": 1.0}


def test_training_that_made_the_reference_is_listed_once_under_that_name(folder, inputs, tmp_path):
    good, bad = knowing_model(), build_model(TINY, seed=0)
    tuned = training(tmp_path / "tuned", "training/tuned", good, [bad, good])
    evaluation = _run(folder, {**inputs, "training/tuned": tuned}, tmp_path / "e")
    assert evaluation.summary["main_metric"].keys() == {"mimic", "base", "reference"}
    rows = evaluation.read_json("results.json")
    order = list(dict.fromkeys((row["model"], row["epoch"]) for row in rows))
    assert [epoch for model, epoch in order if model == "reference"] == [0, 1, None]
    assert not evaluation.files("models/tuned")


def test_training_that_did_not_make_the_reference_keeps_its_name(folder, inputs, tmp_path):
    other = training(tmp_path / "tuned", "training/tuned", build_model(TINY, seed=1), [])
    evaluation = _run(folder, {**inputs, "training/tuned": other}, tmp_path / "e")
    assert evaluation.summary["main_metric"].keys() == {"mimic", "base", "reference", "tuned"}


def test_summary_says_among_how_many_classes_a_set_asks(evaluation):
    sets = evaluation.summary["data_sets"]
    assert sets["colours"]["classes"] >= 5
    assert sets["pairs"] == {"kind": "retrieval", "main_metric": "mean_recall@1", "classes": None}


def test_every_end_evaluates_final_models_alone(folder, inputs, tmp_path):
    values = _values(_run(folder, inputs, tmp_path, every="end"))
    assert {epoch for _, epoch, _, _ in values} == {None}


def test_evaluated_again_it_gives_the_same_content(folder, inputs, evaluation, tmp_path):
    assert _run(folder, inputs, tmp_path).manifest.content == evaluation.manifest.content


def test_preflight_refuses_a_folder_without_sets(tmp_path):
    (tmp_path / "x.txt").write_text("")
    stage = EvaluateStage(EvaluateConfig(data=str(tmp_path)))
    with pytest.raises(UserError, match="no evaluation set"):
        stage.preflight({"data": listed(tmp_path)}, Storage())


def test_preflight_passes_complete_sets(folder):
    EvaluateStage(EvaluateConfig(data=str(folder))).preflight({"data": listed(folder)}, Storage())


@pytest.mark.parametrize(
    ("name", "kind", "metric"),
    [
        ("cifar10", "classification", "acc1"),
        ("vtab-pets", "classification", "mean_per_class_recall"),
        ("retrieval-flickr", "retrieval", "mean_recall@1"),
    ],
)
def test_main_metric_is_datacomps(name, kind, metric):
    assert main_metric(DataSet(name, kind, ())) == metric


def test_plan_counts_models_and_needs_no_data():
    from pipeline.stage import Size

    plan = EvaluateStage(EvaluateConfig(data="nowhere")).plan(
        {"training/mimic": Size(0, 1), "reference": Size(0, 1)}, {}
    )
    assert plan.partitions == 2
    assert "epoch" in plan.note


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("cifar10", "cifar10"),
        ("vtab-pets", "vtab/pets"),
        ("vtab-clevr_count_all", "vtab/clevr_count_all"),
        ("wilds-fmow", "wilds/fmow"),
        ("misc-winogavil", "misc/winogavil"),
        ("retrieval-flickr_1k_test_image_text_retrieval", "retrieval/flickr_1k_test_image_text_retrieval"),
        ("imagenet-r", "imagenet-r"),
        ("imagenet-a", "imagenet-a"),
        ("vtab", "vtab"),
    ],
)
def test_key_is_datacomps_name_of_the_task(name, key):
    assert _key(name) == key


def test_every_line_is_json_of_its_own_with_finite_figures(evaluation):
    for file in evaluation.files(suffix=".jsonl"):
        data = evaluation.read_bytes(file.path)
        assert data.endswith(b"\n")
        for line in data.decode().splitlines():
            row = json.loads(line)
            assert all(0 <= value <= 1 for value in row["metrics"].values())


def test_figures_of_a_model_do_not_depend_on_the_other_models(folder, inputs, evaluation, tmp_path):
    alone = _values(_run(folder, {"training/base": inputs["training/base"]}, tmp_path))
    assert alone == {key: value for key, value in _values(evaluation).items() if key[0] == "base"}


def test_without_a_student_there_are_no_lines_at_the_top(folder, inputs, tmp_path):
    evaluation = _run(folder, {"reference": inputs["reference"]}, tmp_path)
    assert [file.path for file in evaluation.files(suffix=".jsonl")] == ["models/reference/eval_results.jsonl"]


def test_epochs_come_in_order_before_the_final_model(evaluation):
    rows = evaluation.read_json("results.json")
    order = list(dict.fromkeys((row["model"], row["epoch"]) for row in rows))
    assert [epoch for model, epoch in order if model == "mimic"] == [0, 1, None]


def test_broken_set_stops_in_preflight_and_names_the_file(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "sets")
    (tmp_path / "sets/wds_colours_test/test/0.tar").unlink()
    stage = EvaluateStage(EvaluateConfig(data=str(tmp_path / "sets")))
    with pytest.raises(UserError, match=r"0\.tar") as raised:
        stage.preflight({"data": listed(tmp_path / "sets")}, Storage())
    assert raised.value.exit_code == 2
