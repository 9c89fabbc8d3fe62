"""From a YAML 1.2 file and `key.path=value` overrides to a checked configuration, or one clear message."""

import difflib
import io
import typing
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.config_base import Config
from pipeline.errors import UserError
from pipeline.storage import Storage, is_s3

ConfigT = TypeVar("ConfigT", bound=Config)


def shipped_names() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(entry.name for entry in files("pipeline.configs").iterdir() if entry.name.endswith(".yaml"))


def read_config_text(name: str, storage: Storage) -> str:
    """The text of a shipped configuration by its bare name, else of a path or s3:// URI.

    Raises:
        UserError: there is no such configuration.
    """
    if name in shipped_names():
        return (files("pipeline.configs") / name).read_text()
    try:
        return storage.read_bytes(name if is_s3(name) else str(Path(name).expanduser())).decode()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            "no such configuration",
            where=name,
            expected=f"a path, an s3:// URI, or one of the shipped {', '.join(shipped_names())}",
            next_step="write ./NAME.yaml for a file of your own",
        ) from None
    except UnicodeDecodeError as error:
        raise UserError("the configuration is not UTF-8 text", where=name, found=error) from error


def load_config(model: type[ConfigT], text: str, overrides: Sequence[str], where: str) -> ConfigT:
    """Parse, override and check.

    Args:
        model: root configuration class.
        text: YAML 1.2; duplicate keys and tags are refused.
        overrides: `key.path=value`, the value read as YAML.
        where: name of the file, for messages.

    Raises:
        UserError: with each fault, the file's key path and, for an unknown key, the nearest known one.
    """
    tree = _parse(text, where)
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise UserError("the configuration is no mapping", where=where, expected="key: value lines", found=tree)
    for override in overrides:
        _apply(tree, override)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        faults = "\n".join(f"  {_describe(model, fault)}" for fault in error.errors(include_url=False))
        raise UserError(f"the configuration has {error.error_count()} fault(s)\n{faults}", where=where) from None


def _parse(text: str, where: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(io.StringIO(text))
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError("a key stands twice", where=f"{where}:{line}", found=str(error.problem)) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError("the configuration is not YAML", where=f"{where}:{line}", found=str(error.problem)) from None
    except YAMLError as error:
        raise UserError("the configuration is not YAML", where=where, found=str(error).splitlines()[0]) from None


def _apply(tree: dict[str, Any], override: str) -> None:
    path, separator, value = override.partition("=")
    keys = path.split(".")
    if not separator or not all(keys):
        raise UserError("not an override", expected="key.path=value, such as train.epochs=2", found=override)
    node = tree
    for key in keys[:-1]:
        child = node.get(key)
        if not isinstance(child, dict):  # a word such as `off`, or nothing, gives way to a block
            child = node[key] = {}
        node = child
    node[keys[-1]] = _parse(value, f"override {path}")


def _describe(model: type[Config], fault: Any) -> str:
    location = tuple(fault["loc"])
    path = ".".join(str(part) for part in location) or "(top)"
    if fault["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"known here: {', '.join(known) or 'nothing'}"
        return f"{path}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"{path}: this key is needed and is not there"
    message = str(fault["msg"]).removeprefix("Value error, ")
    found = fault.get("input")
    return f"{path}: {message}" + ("" if isinstance(found, dict | list) else f"; found {found!r}")


def _known_keys(model: type[Config], location: tuple[Any, ...]) -> list[str]:
    """Field names of the configuration block(s) at a location, as far as the types tell."""
    candidates: list[Any] = [model]
    for part in location:
        following: list[Any] = []
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, Config) and part in candidate.model_fields:
                following += _alternatives(candidate.model_fields[part].annotation)
            else:  # the key of a dict, or the tag of a union, stands for itself
                following.append(candidate)
        candidates = following
    names = {name for c in candidates if isinstance(c, type) and issubclass(c, Config) for name in c.model_fields}
    return sorted(names)


def _alternatives(annotation: Any) -> list[Any]:
    arguments = typing.get_args(annotation)
    if not arguments:
        return [annotation]
    return [leaf for argument in arguments for leaf in _alternatives(argument)]
