"""Run the command as a user does: another process, its exit code, its output, its files."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

TINY = Path(__file__).parent.parent / "configs" / "tiny.yaml"


def gradsieve(*arguments: str, cwd: Path, timeout: float = 280, **extra: str) -> subprocess.CompletedProcess[str]:
    """`python -m pipeline.cli.app ARGUMENTS` in a folder; `extra` goes into its environment."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", **extra}
    command = [sys.executable, "-m", "pipeline.cli.app", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


def run_tiny(cwd: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """`gradsieve run tiny.yaml ...` in a folder that holds `pool/`."""
    return gradsieve("run", str(TINY), *overrides, cwd=cwd)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
