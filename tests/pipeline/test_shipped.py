"""What the shipped configurations promise: the paper's set-up, our recommended one, files that an installation has."""

import fnmatch
import tomllib
from pathlib import Path

import pytest

from pipeline.config_checks import num_visits
from pipeline.yaml_config import shipped_names
from tests.pipeline.shipped import RECIPES, ROOT, SHIPPED, config

_CODE = (".py", ".pyc")


@pytest.mark.parametrize(("name", "samples"), [("small", 12_800_000), ("medium", 128_000_000)])
def test_configuration_of_a_datacomp_scale_is_the_papers_set_up(name: str, samples: int) -> None:
    text = SHIPPED[f"{name}.yaml"]
    paper = config(text=text)
    train = paper.train
    assert (train.model.name, train.batch_size, train.learning_rate, train.warmup) == ("ViT-B-32", 4096, 5e-4, 500)
    assert paper.pool.expected_samples == train.samples_seen == samples
    assert set(num_visits(paper).values()) == {1}
    assert train.temperature == 0.05
    assert (train.mimic.tower, train.mimic.parameters) == ("image", None)  # its last MLP
    assert paper.aggregate.method == "mean_score"
    assert (paper.binarize.fraction, list(paper.binarize.voters or {})) == (0.3, ["mimic"])
    parts = paper.select.model_dump(mode="json", by_alias=True)["rule"]["all"]
    assert {"arch": "b32", "fraction": 0.3}.items() <= parts[0]["clip_score"].items()
    assert paper.reference.on_uninformative == "warn"
    before = text[: text.index("on_uninformative: warn")].splitlines()
    assert before[-2].lstrip().startswith("#"), "says why in a comment"


def test_top_of_the_mimic_score_alone_is_one_override_as_the_comment_says() -> None:
    (comment,) = (line for line in SHIPPED["medium.yaml"].splitlines() if "Mimic score alone: " in line)
    override = comment.partition(": ")[2].replace('"', "")
    top = config(override, text=SHIPPED["medium.yaml"]).select.model_dump(mode="json")["rule"]["top"]
    assert (top["by"], top["fraction"], top["of"]) == ("p_keep", 0.3, "scored")


def test_recipe_is_five_visits_label_model_and_effective_batch() -> None:
    (text,) = RECIPES.values()
    recipe = config(text=text)
    assert num_visits(recipe)["mimic"] == 5
    assert recipe.aggregate.method == "label_model"
    assert recipe.train.model_dump()["temperature"] == {"effective_batch": 0.9}
    assert recipe.reference.on_uninformative == "stop"
    assert recipe.reference.base is not None
    assert recipe.reference.tune is not None


def test_demo_is_readable_and_its_lineage_is_base_then_reference() -> None:
    demo = config(text=SHIPPED["demo.yaml"])
    assert len(SHIPPED["demo.yaml"].splitlines()) < 60
    assert demo.reference.base is not None
    assert demo.reference.tune is not None
    assert demo.reference.on_uninformative == "stop"
    assert (demo.pool.path, demo.output) == ("data/demo/shards", "runs/demo")
    assert demo.evaluate != "off"
    assert demo.evaluate.retrain is None


def test_every_file_beside_the_code_is_installed_with_it() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    installed = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, patterns in tool["package-data"].items()
        for pattern in patterns
    ]
    beside = [
        str(path.relative_to(ROOT))
        for room in ("pipeline", "stages")  # what lies in cluster/ is read where the repository is
        for path in sorted((ROOT / room).rglob("*"))
        if path.is_file() and path.suffix not in _CODE and not any(part.startswith(".") for part in path.parts[-3:])
    ]
    assert {f"pipeline/configs/{name}" for name in shipped_names()} <= set(beside)
    for path in beside:
        assert any(fnmatch.fnmatch(path, pattern) for pattern in installed), path
        assert (ROOT / Path(path).parent / "__init__.py").is_file(), path
