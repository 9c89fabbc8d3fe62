"""What kustomize makes of an overlay."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
OVERLAYS = sorted(path.name for path in (KUBERAY / "overlays").iterdir())

Documents = list[dict[str, Any]]


def rendered(overlay: str) -> Documents:
    """Its documents; skips the test where there is no kustomize."""
    command = _command()
    if command is None:
        pytest.skip("neither kubectl nor kustomize is here: the overlays were not rendered")
    return _documents(command, overlay)


def of_kind(documents: Documents, kind: str) -> dict[str, Any]:
    """The one document of a kind."""
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def cluster_spec(documents: Documents) -> dict[str, Any]:
    """Of the RayCluster, wherever it is."""
    kinds = {document["kind"]: document for document in documents}
    if "RayCluster" in kinds:
        return kinds["RayCluster"]["spec"]
    if "RayJob" in kinds:
        return kinds["RayJob"]["spec"]["rayClusterSpec"]
    return kinds["RayCronJob"]["spec"]["jobTemplate"]["rayClusterSpec"]


def pod_specs(node: Any) -> list[dict[str, Any]]:
    """All specs of pods anywhere in documents."""
    if isinstance(node, list):
        return [spec for item in node for spec in pod_specs(item)]
    if not isinstance(node, dict):
        return []
    own = [node] if "containers" in node else []
    return own + [spec for value in node.values() for spec in pod_specs(value)]


def _command() -> tuple[str, ...] | None:
    if shutil.which("kubectl"):
        return ("kubectl", "kustomize")
    return ("kustomize", "build") if shutil.which("kustomize") else None


@cache
def _documents(command: tuple[str, ...], overlay: str) -> Documents:
    ran = subprocess.run(
        [*command, str(KUBERAY / "overlays" / overlay)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return [document for document in yaml.safe_load_all(ran.stdout) if document]
