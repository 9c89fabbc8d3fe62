"""Custom resources held against the schemas of their definitions, unknown fields being errors.

An API server drops fields that a definition does not know, so a typo passes there in silence. The definitions are
KubeRay's and no part of this repository: `GRADSIEVE_CRDS` names a folder with `rayclusters.yaml`, `rayjobs.yaml` and
`raycronjobs.yaml` (`helm-chart/kuberay-operator/crds/ray.io_*.yaml` of its release 1.7).
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

VARIABLE = "GRADSIEVE_CRDS"
_VERBATIM = {"enum", "default", "required"}
"""Keywords whose values are no schemas."""


def folder() -> Path | None:
    """Where the definitions are; None where nobody said."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


@cache
def _schemas(place: Path) -> dict[tuple[str, str], Draft202012Validator]:
    """(apiVersion, kind) -> its validator."""
    validators = {}
    for path in sorted(place.glob("*.yaml")):
        definition = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
        for version in definition["versions"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = True  # kustomize and kubernetes-validate look after names and labels
            key = f"{definition['group']}/{version['name']}", definition["names"]["kind"]
            validators[key] = Draft202012Validator(schema)
    assert validators, f"no definitions in {place}"
    return validators


def closed(node: Any) -> Any:
    """A structural schema as a JSON schema in which objects have no fields but those that are named."""
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: value if key in _VERBATIM else closed(value) for key, value in node.items()}
    if node.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    open_ended = "additionalProperties" in node or node.get("x-kubernetes-preserve-unknown-fields")
    if node.get("type") == "object" and "properties" in node and not open_ended:
        made["additionalProperties"] = False
    return made


def faults(document: dict[str, Any], place: Path) -> Iterator[str]:
    """What is wrong with a resource, each with its place; KeyError if there is no definition for its kind."""
    validator = _schemas(place)[document["apiVersion"], document["kind"]]
    for error in validator.iter_errors(document):
        yield f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
