"""The workflow for GitHub Actions: as GitHub's schema says, and safe by what it says."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

WORKFLOW = Path(__file__).parents[2] / "cluster" / "github" / "nightly.yaml"


def _checked(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def workflow() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(WORKFLOW.read_text(), Loader=yaml.BaseLoader)  # `on` stays a word
    return loaded


def test_workflow_is_as_githubs_schema_says_and_a_typo_would_be_found(tmp_path: Path) -> None:
    assert _checked(WORKFLOW).returncode == 0
    broken = tmp_path / "broken.yaml"
    broken.write_text(WORKFLOW.read_text().replace("runs-on:", "run-on:"))
    assert _checked(broken).returncode == 1


def test_runs_never_overlap_and_are_never_cut_off(workflow: dict[str, Any]) -> None:
    assert workflow["concurrency"] == {"group": "curation", "cancel-in-progress": "false"}


def test_token_is_a_secret_and_rights_are_least(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    job = workflow["jobs"]["submit"]
    assert job["env"]["RAY_AUTH_TOKEN"] == "${{ secrets.RAY_AUTH_TOKEN }}"
    assert job["env"]["RAY_AUTH_MODE"] == "token"


def test_no_value_from_outside_is_pasted_into_a_script(workflow: dict[str, Any]) -> None:
    for step in workflow["jobs"]["submit"]["steps"]:
        assert "${{" not in step.get("run", "")


def test_scripts_are_shell(workflow: dict[str, Any]) -> None:
    for step in workflow["jobs"]["submit"]["steps"]:
        if "run" in step:
            subprocess.run(["bash", "-n", "-c", step["run"]], check=True, timeout=60)


def test_submission_says_to_ray_what_it_means(workflow: dict[str, Any], tmp_path: Path) -> None:
    (script,) = [step["run"] for step in workflow["jobs"]["submit"]["steps"] if "submit" in step.get("run", "")]
    said = tmp_path / "said"
    (tmp_path / "ray").write_text(f'#!/bin/sh\nfor word in "$@"; do echo "$word"; done > {said}\n')
    (tmp_path / "ray").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "CONFIG": "my config.yaml", "RUNS": "s3://b/runs", "GITHUB_RUN_ID": "7",
        "GITHUB_RUN_ATTEMPT": "2",
    }  # fmt: skip
    subprocess.run(["bash", "-euc", script], check=True, env=environment, timeout=60)
    words = said.read_text().splitlines()
    assert words[:4] == ["job", "submit", "--working-dir", "."]
    assert re.fullmatch(r"curation-\d{4}-\d\d-\d\d-7-2", words[5])
    end = words.index("--")
    assert words[end + 1 : end + 5] == ["python", "-m", "pipeline.run", "my config.yaml"]
    assert re.fullmatch(r"output=s3://b/runs/\d{4}-\d\d-\d\d", words[end + 5])
