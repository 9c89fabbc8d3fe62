"""The configurations that come with the project, by file name, and how a test loads one."""

from importlib.resources import files
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.yaml_config import load_config

ROOT = Path(__file__).parents[2]
TINY = (ROOT / "tests/configs/tiny.yaml").read_text()
RECIPES = {path.name: path.read_text() for path in (ROOT / "recipes").glob("*.yaml")}
SHIPPED = {path.name: path.read_text() for path in files("pipeline.configs").iterdir() if path.name.endswith(".yaml")}
SHIPPED |= RECIPES


def config(*overrides: str, text: str = TINY) -> RunConfig:
    """That text with overrides, checked."""
    return load_config(RunConfig, text, overrides, "test.yaml")
