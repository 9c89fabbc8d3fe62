"""Facts about open_clip's architectures, read from its files without importing torch."""

import ast
import importlib.util
import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Literal

_TOWER_CLASSES = {"vision_cfg": "CLIPVisionCfg", "text_cfg": "CLIPTextCfg"}


@cache
def _package_folder() -> Path:
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None, "open_clip is a dependency of this package"
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def architecture_names() -> tuple[str, ...]:
    """Names of the architectures that come with open_clip, sorted."""
    return tuple(sorted(path.stem for path in (_package_folder() / "model_configs").glob("*.json")))


@cache
def _read_architecture(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((_package_folder() / "model_configs" / f"{name}.json").read_text("utf-8"))
    return loaded


def named_architecture(name: str) -> dict[str, Any]:
    """The model config of an open_clip architecture, as open_clip's own file has it.

    Raises:
        KeyError: open_clip has no architecture of that name.
    """
    if name not in architecture_names():
        raise KeyError(name)
    return deepcopy(_read_architecture(name))


@cache
def tower_fields(tower: Literal["vision_cfg", "text_cfg"]) -> dict[str, Any]:
    """Fields that open_clip's tower config knows, with their defaults (None where computed)."""
    source = ast.parse((_package_folder() / "model.py").read_text("utf-8"))
    name = _TOWER_CLASSES[tower]
    body = next(node.body for node in source.body if isinstance(node, ast.ClassDef) and node.name == name)
    return {
        node.target.id: node.value.value if isinstance(node.value, ast.Constant) else None
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
