"""The check of custom resources finds what an API server would drop in silence."""

import re
from pathlib import Path

import pytest

from tests.cluster.crd import closed, faults

DEFINITION = """
spec:
  group: example.org
  names: {kind: Thing}
  versions:
    - name: v1
      schema:
        openAPIV3Schema:
          type: object
          required: [spec]
          properties:
            metadata: {type: object}
            apiVersion: {type: string}
            kind: {type: string}
            spec:
              type: object
              properties:
                size: {type: integer}
                port: {anyOf: [{type: integer}, {type: string}], x-kubernetes-int-or-string: true}
                labels: {type: object, additionalProperties: {type: string}}
                free: {type: object, properties: {a: {type: string}}, x-kubernetes-preserve-unknown-fields: true}
                mode: {type: string, enum: [a, b]}
                parts: {type: array, items: {type: object, properties: {name: {type: string}}}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "things.yaml").write_text(DEFINITION)
    return tmp_path


def _thing(**spec: object) -> dict[str, object]:
    return {"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": spec}


@pytest.mark.parametrize(
    "spec",
    [{}, {"size": 3}, {"port": 80}, {"port": "http"}, {"labels": {"any": "thing"}}, {"free": {"b": 1}}, {"mode": "a"}],
)
def test_resource_as_defined_has_no_fault(spec: dict[str, object], place: Path) -> None:
    assert list(faults(_thing(**spec), place)) == []


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"sise": 3}, "spec: .*'sise'"),
        ({"size": "3"}, "spec/size: "),
        ({"port": 1.5}, "spec/port: "),
        ({"labels": {"a": 1}}, "spec/labels/a: "),
        ({"mode": "c"}, "spec/mode: "),
        ({"parts": [{}, {"nam": "x"}]}, "spec/parts/1: .*'nam'"),
    ],
)
def test_resource_with_a_typo_or_a_wrong_type_is_told_by_place(
    spec: dict[str, object], where: str, place: Path
) -> None:
    (fault,) = faults(_thing(**spec), place)
    assert re.match(where, fault)


def test_kind_without_a_definition_is_an_error(place: Path) -> None:
    with pytest.raises(KeyError):
        list(faults({"apiVersion": "example.org/v1", "kind": "Other"}, place))


def test_names_within_an_enum_are_no_schemas() -> None:
    assert closed({"enum": [{"type": "object", "properties": {}}]}) == {"enum": [{"type": "object", "properties": {}}]}
