"""What the documents show: commands that a shell can run, files and tests that exist, figures that were measured."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.storage import Storage
from pipeline.yaml_config import load_config, read_config_text
from tests.docs.examples import DOCUMENTS, ROOT, commands, examples


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_help_of_every_command_shows_one_that_runs(name: str) -> None:
    assert [example for example in examples() if example.where == f"{name} --help"]


def test_collector_finds_the_commands_of_the_readme_once_each() -> None:
    shown = [example.line for example in examples() if example.where == "README.md"]
    assert "make demo     # installs into .venv, renders a demo pool, curates it, says what it found" in shown
    assert "gradsieve pool make data/demo" in shown
    assert sum("train.samples_seen=1_280_000 train.warmup=50" in line for line in shown) == 1
    assert any(line.startswith("python -m pipeline.run demo.yaml 'evaluate.retrain=") for line in shown)


def test_make_targets_that_are_shown_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    shown = {example.words[1] for example in examples() if example.words[0] == "make"}
    assert {"demo", "test"} <= shown <= targets


def test_pip_commands_that_are_shown_name_files_that_exist() -> None:
    shown = [example.words for example in examples() if example.words[0] == "pip"]
    assert ["pip", "install", "-c", "constraints.txt", "."] in shown
    for words in shown:
        assert (ROOT / words[words.index("-c") + 1]).is_file()


def test_modules_that_are_shown_exist() -> None:
    shown = {example.words[2] for example in examples() if example.words[:2] == ["python", "-m"]}
    assert "pipeline.run" in shown
    for module in shown:
        assert importlib.util.find_spec(module) is not None, module


def test_links_lead_to_files_that_exist() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert target.startswith("https://") or (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_configuration_in_a_document_is_one(document: Path) -> None:
    """Spans such as `selectors: {mine: {kind: table, path: scores.parquet}}` go into demo.yaml as they stand."""
    for span in re.findall(r"`([a-z]+: \{[^`]+\})`", document.read_text()):
        key, _, value = span.partition(": ")
        config = load_config(RunConfig, read_config_text("demo.yaml", Storage()), [f"{key}={value}"], "demo.yaml")
        assert getattr(config, key), span


def _result(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def _value(result: Any, model: str, dataset: str, metric: str) -> float:
    (value,) = (
        row["value"]
        for row in result["evaluation"]
        if (row["model"], row["dataset"], row["metric"]) == (model, dataset, metric)
    )
    return float(value)


def test_areas_in_the_readme_are_those_of_the_kept_demo_run() -> None:
    readme, truth = (ROOT / "README.md").read_text(), _result("demo")["truth"]
    for label, key in (
        ("mean loss", "loss_auc"),
        ("CLIP score of the reference", "reference_clip_score_auc"),
        ("CLIP score from the metadata", "clip_score_auc"),
        ("mimic score", "mimic_auc"),
    ):
        assert f"| {label} | {truth[key]:.3f} |".replace("0.", ".") in readme
    assert f"{truth['kept_clean_share']:.0%}".replace("%", " %") + " of the kept half is clean" in readme
    assert f"against {truth['pool_clean_share']:.0%}".replace("%", " %") + " of the pool" in readme


def test_accuracies_in_the_readme_are_those_of_the_kept_retrained_run() -> None:
    readme, result = (ROOT / "README.md").read_text(), _result("demo_retrained")
    for label, model in (("the kept half", "kept"), ("a random half", "random")):
        shown = [
            f"{100 * _value(result, model, dataset, metric):.1f} %"
            for dataset, metric in (("colours", "acc1"), ("pairs", "mean_recall@1"), ("digits", "acc1"))
        ]
        assert f"| {label} | {' | '.join(shown)} |" in readme


def test_readme_says_that_digits_stay_at_chance() -> None:
    """For as long as they do; a demo that learns them has other things to say."""
    result = _result("demo_retrained")
    digits = {
        model: _value(result, model, "digits", "acc1") for model in ("reference", "base", "mimic", "kept", "random")
    }
    assert all(abs(value - 0.1) < 0.03 for value in digits.values()), digits
    readme = (ROOT / "README.md").read_text()
    assert (
        f"stay at chance for every model of the demo, the reference included ({100 * digits['reference']:.1f} %)"
        in readme
    )
