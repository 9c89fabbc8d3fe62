"""One tiny pool and one finished tiny run for all end-to-end tests."""

from pathlib import Path

import pytest

from tests.end_to_end.runs import gradsieve, run_tiny


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a demo pool of 512 samples in `pool/`."""
    folder = tmp_path_factory.mktemp("workplace")
    made = gradsieve("pool", "make", "pool", "--samples", "512", cwd=folder)
    assert made.returncode == 0, made.stderr
    assert "gradsieve run demo.yaml pool.path=pool/shards pool.metadata=pool/metadata" in made.stdout
    return folder


@pytest.fixture(scope="session")
def finished(workplace: Path) -> Path:
    """The output folder of a finished run of the tiny configuration."""
    result = run_tiny(workplace, "cluster.executor=in_process")
    assert result.returncode == 0, result.stderr
    (workplace / "stdout.txt").write_text(result.stdout)
    (workplace / "stderr.txt").write_text(result.stderr)
    return workplace / "runs" / "tiny"
