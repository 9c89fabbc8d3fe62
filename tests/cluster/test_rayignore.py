"""What a submitted job carries: the code, and nothing else of a working copy."""

import os
import zipfile
from pathlib import Path

from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).parents[2]


def _carried(folder: Path, tmp_path: Path) -> set[str]:
    package = tmp_path / "package.zip"
    create_package(str(folder), package, include_gitignore=True)
    return {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")}


def test_job_carries_code_and_configurations_and_no_data_environment_history_or_credentials(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    carried = ["pipeline/run.py", "pipeline/configs/medium.yaml", "stages/train/loop.py", "cluster/README.md", "a.yaml"]
    left = [
        ".git/objects/pack/x", ".venv/bin/python", "data/demo/shards/00000000.tar", "runs/demo/run.json",
        "tests/test_x.py", "docs/flow.svg", "benchmarks/results/x.json", "pipeline/__pycache__/run.cpython-311.pyc",
        "weights.safetensors", "scores.parquet", "sample_ids.npy", "00000000.tar", ".env", ".aws/credentials",
    ]  # fmt: skip
    for name in carried + left:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("x")
    for name in (".gitignore", ".rayignore"):
        (copy / name).write_text((ROOT / name).read_text())
    assert _carried(copy, tmp_path) - {".gitignore", ".rayignore"} == set(carried)


def test_job_from_this_repository_is_small_and_complete(tmp_path: Path) -> None:
    found = _carried(ROOT, tmp_path)
    assert {"pipeline/run.py", "pipeline/configs/demo.yaml", "stages/report/page.html", "pyproject.toml"} <= found
    assert not [name for name in found if name.startswith((".venv", "tests/", ".git/"))]
    assert os.path.getsize(tmp_path / "package.zip") < 4 << 20
