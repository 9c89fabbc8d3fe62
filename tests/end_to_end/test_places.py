"""Where an output may lie, and deliverables of an earlier run that stay behind one that ends before them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.runs import gradsieve, run_tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def taken_down(workplace: Path, finished: Path) -> tuple[Path, str]:
    """A copy of a finished run, run again until `select` without five kept samples; and what was told."""
    output = workplace / "runs/taken_down"
    shutil.copytree(finished, output)
    kept = np.load(finished / "subset/sample_ids.npy")
    listed = workplace / "takedown.txt"
    listed.write_text("".join(f"{int(row['f0']):016x}{int(row['f1']):016x}\n" for row in kept[:5]))
    result = run_tiny(
        workplace, f"output={output}", "cluster.executor=in_process", f"select.exclude=[{listed}]", "--until", "select"
    )
    assert result.returncode == 0, result.stderr
    return output, result.stderr


def test_deliverables_that_no_longer_fit_are_told_of(taken_down: tuple[Path, str]) -> None:
    (warning,) = [line for line in taken_down[1].splitlines() if "belong(s) to an earlier run" in line]
    assert "shards" in warning
    assert "report" in warning
    assert "without --until" in warning


def test_verify_holds_shards_of_an_earlier_run_against_the_subset(taken_down: tuple[Path, str]) -> None:
    verified = gradsieve("verify", str(taken_down[0]), cwd=taken_down[0])
    assert verified.returncode == 1
    assert "shards: it was made from another `subset` than this run has" in verified.stderr


def test_verify_reads_shards_of_an_earlier_run(taken_down: tuple[Path, str]) -> None:
    shard = sorted((taken_down[0] / "shards").glob("*.tar"))[0]
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    verified = gradsieve("verify", str(taken_down[0]), cwd=taken_down[0])
    assert verified.returncode == 1
    assert shard.name in verified.stderr


def test_damaged_manifest_of_an_earlier_deliverable_fails_no_run_that_ended_well(
    workplace: Path, finished: Path
) -> None:
    output = workplace / "runs/damaged"
    shutil.copytree(finished, output)
    (output / "manifests/shards.json").write_text("{")
    result = run_tiny(
        workplace,
        f"output={output}",
        "cluster.executor=in_process",
        "select.rule.top.fraction=0.25",
        "--until",
        "select",
    )
    assert result.returncode == 0, result.stderr
    assert "shards" in next(line for line in result.stderr.splitlines() if "belong(s) to an earlier run" in line)


def test_finished_run_has_nothing_of_an_earlier_one(finished: Path, workplace: Path) -> None:
    assert "belong(s) to an earlier run" not in (workplace / "stderr.txt").read_text()
    assert gradsieve("verify", str(finished), cwd=workplace).returncode == 0


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["output=pool/shards"], "the output lies in pool.path"),
        (["output=pool/shards/runs/x"], "the output lies in pool.path"),
        (["output=pool/metadata/x"], "the output lies in pool.metadata"),
        (["store=pool/shards/store"], "the store lies in pool.path"),
        (["output=stdout.txt"], "the output is not a folder"),
        (['output="a\\x00b"'], "a path cannot hold a NUL character"),
    ],
)
def test_output_that_cannot_be_is_refused_before_anything_is_written(
    overrides: list[str], wanted: str, workplace: Path, finished: Path
) -> None:
    before = {path for path in workplace.rglob("*") if "/runs/" not in str(path)}
    refused = run_tiny(workplace, "cluster.executor=in_process", *overrides)
    assert refused.returncode == 2, refused.stderr
    assert wanted in refused.stderr
    assert "Traceback" not in refused.stderr
    assert {path for path in workplace.rglob("*") if "/runs/" not in str(path)} == before
