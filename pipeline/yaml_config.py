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
    except OSError as error:
        raise UserError(
            "no such configuration",
            where=name,
            found=error.strerror or "nothing",
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
        faults = _faults(model, error.errors(include_url=False))
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise UserError(f"the configuration has {len(faults)} fault(s)\n{listed}", where=where) from None


def _parse(text: str, where: str) -> Any:
    try:
        for event in YAML(typ="safe", pure=True).parse(io.StringIO(text)):
            tag = getattr(event, "tag", None)
            if tag is not None:
                line = event.start_mark.line + 1
                raise UserError("tags are not allowed in a configuration", where=f"{where}:{line}", found=str(tag))
        return YAML(typ="safe", pure=True).load(io.StringIO(text))
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError("a key stands twice", where=f"{where}:{line}", found=str(error.problem)) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError("the configuration is not YAML", where=f"{where}:{line}", found=str(error.problem)) from None
    except (YAMLError, ValueError) as error:
        raise UserError("the configuration is not YAML", where=where, found=str(error).splitlines()[0]) from None
    except RecursionError:
        raise UserError("the configuration is nested too deeply", where=where) from None


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


def _faults(model: type[Config], faults: Sequence[Any]) -> list[str]:
    """One line a fault; of a union's alternatives only the ones that were meant."""
    placed = [(*_place(model, tuple(fault["loc"])), fault) for fault in faults]
    blocks = [path for path, in_block, _ in placed if in_block]
    told: dict[tuple[tuple[str, ...], object], list[Any]] = {}
    for path, in_block, fault in placed:
        found = fault.get("input")
        meant_a_block = isinstance(found, dict) and any(block[: len(path)] == path for block in blocks)
        if in_block or not meant_a_block:
            # A word that fits none of a union's alternatives is one fault.
            told.setdefault((path, id(fault) if isinstance(found, dict | list) else repr(found)), []).append(fault)
    return list(dict.fromkeys(_describe(model, path, alternatives) for (path, _), alternatives in told.items()))


def _place(model: type[Config], location: tuple[Any, ...]) -> tuple[tuple[str, ...], bool]:
    """The keys of a location as they stand in the file, and whether it lies inside a block of a union.

    pydantic puts the name of a union's alternative between the keys; a reader of the file knows nothing of it.
    """
    path: list[str] = []
    in_block = False
    candidates: list[Any] = [model]
    after_key = False
    for part in location:
        blocks = [c for c in candidates if isinstance(c, type) and issubclass(c, Config)]
        if any(part in block.model_fields or part in _aliases(block) for block in blocks):
            candidates = [leaf for block in blocks for leaf in _field_leaves(block, part)]
            path.append(str(part))
            after_key = False
        elif any(_names_block(part, block) for block in blocks) or (after_key and part in _kinds(blocks)):
            in_block = True
            candidates = [block for block in blocks if _names_block(part, block) or part in _kinds([block])]
        elif isinstance(part, str) and (part.startswith("literal[") or part in _SCALARS):
            continue
        else:
            path.append(str(part))
            after_key = True
    return tuple(path), in_block


_NO_BLOCK = {"model_type", "model_attributes_type", "dict_type"}
_BLOCK = "Input should be a block of `key: value` lines"
_SCALARS = {"float", "int", "str", "bool", "constrained-float", "constrained-int", "constrained-str", "list[int]"}


def _names_block(part: object, block: type[Config]) -> bool:
    """Whether pydantic's word for an alternative of a union is this block (with or without validators of its own)."""
    return part == block.__name__ or (isinstance(part, str) and part.endswith(f", {block.__name__}]"))


def _aliases(block: type[Config]) -> set[str]:
    return {field.alias for field in block.model_fields.values() if field.alias}


def _field_leaves(block: type[Config], name: str) -> list[Any]:
    fields = {field.alias or key: field for key, field in block.model_fields.items()} | dict(block.model_fields)
    return _alternatives(fields[name].annotation) if name in fields else []


def _kinds(blocks: Sequence[type[Config]]) -> set[str]:
    """What the `kind` of these blocks may be."""
    return {
        kind
        for block in blocks
        if "kind" in block.model_fields
        for kind in _alternatives(block.model_fields["kind"].annotation)
    }


def _describe(model: type[Config], path: tuple[str, ...], alternatives: Sequence[Any]) -> str:
    """One fault; of a union's alternatives that a word fits none of, all of them."""
    where = ".".join(path) or "(top)"
    fault = alternatives[0]
    found = fault.get("input")
    if fault["type"] == "extra_forbidden":
        known = _known_keys(model, tuple(fault["loc"])[:-1])
        nearest = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"known here: {', '.join(known) or 'nothing'}"
        return f"{where}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"{where}: this key is needed and is not there"
    if fault["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = fault.get("ctx", {}).get("expected_tags") or ", ".join(sorted(_kinds(_blocks_at(model, fault["loc"]))))
        given = found.get("kind") if isinstance(found, dict) else found
        return f"{where}.kind: one of {kinds} is needed; found {given!r}"
    message = ", or ".join(dict.fromkeys(map(_wish, alternatives)))
    return f"{where}: {message}" + ("" if isinstance(found, dict | list) else f"; found {found!r}")


def _wish(fault: Any) -> str:
    return _BLOCK if fault["type"] in _NO_BLOCK else str(fault["msg"]).removeprefix("Value error, ")


def _known_keys(model: type[Config], location: tuple[Any, ...]) -> list[str]:
    """Keys that are known in the block(s) at a location, as far as the types tell."""
    names = set()
    for block in _blocks_at(model, location):
        names |= {field.alias or name for name, field in block.model_fields.items()}
    return sorted(names)


def _blocks_at(model: type[Config], location: tuple[Any, ...]) -> list[type[Config]]:
    candidates: list[Any] = [model]
    for part in location:
        blocks = [c for c in candidates if isinstance(c, type) and issubclass(c, Config)]
        named = [block for block in blocks if _names_block(part, block) or part in _kinds([block])]
        if any(part in block.model_fields or part in _aliases(block) for block in blocks):
            candidates = [leaf for block in blocks for leaf in _field_leaves(block, part)]
        elif named:
            candidates = named
    return [c for c in candidates if isinstance(c, type) and issubclass(c, Config)]


def _alternatives(annotation: Any) -> list[Any]:
    arguments = typing.get_args(annotation)
    if not arguments:
        return [annotation]
    return [leaf for argument in arguments for leaf in _alternatives(argument)]
