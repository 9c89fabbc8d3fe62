"""Which earlier run is taken; whole nights are in tests/end_to_end/test_grown.py."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.artifact import ArtifactWriter, Manifest
from pipeline.errors import UserError
from pipeline.growth import find_earlier
from pipeline.run_record import sealed
from pipeline.storage import Storage

STORAGE = Storage()
TABLES = ("training/mimic", "scores/mimic")


def finished(series: Path, name: str, *, state: str = "done", artifacts: tuple[str, ...] = TABLES) -> Path:
    """The record of a run, and manifests of what it made; deliverables too."""
    stages: dict[str, Any] = {"report": {"state": "done", "root": "report", "manifest": "manifests/report.json"}}
    for artifact in artifacts:
        root = series / "store" / artifact / f"{name:0>16}"
        file = ArtifactWriter(str(root), STORAGE).put_bytes("a.bin", b"a")
        STORAGE.put(f"{root}/manifest.json", Manifest(artifact, f"{name:0>64}", {}, (file,), {}).to_json())
        stages[artifact] = {"state": "done", "root": str(root), "manifest": f"{root}/manifest.json"}
    body = {"state": state, "started": name, "config": {"seed": 0}, "stages": stages}
    (series / name).mkdir(parents=True)
    (series / name / "run.json").write_bytes(sealed(body))
    return series / name


def found(series: Path, wish: str = "latest") -> str | None:
    earlier = find_earlier(wish, str(series / "now"), str(series), STORAGE)
    return None if earlier is None else Path(earlier.run).name


def test_latest_is_the_last_finished_run_that_has_a_training(tmp_path: Path) -> None:
    assert found(tmp_path) is None
    finished(tmp_path, "1")
    finished(tmp_path, "2")
    finished(tmp_path, "3", state="failed")
    finished(tmp_path, "4", artifacts=("pool",))  # `--until pool`
    assert found(tmp_path) == "2"


def test_series_without_a_finished_run_has_none(tmp_path: Path) -> None:
    finished(tmp_path, "1", state="failed")
    assert found(tmp_path) is None


def test_run_that_is_named_is_taken_though_another_is_later(tmp_path: Path) -> None:
    named = finished(tmp_path, "1")
    finished(tmp_path, "2")
    assert found(tmp_path, str(named)) == "1"


@pytest.mark.parametrize(
    ("name", "message"), [("unfinished", "not finished"), ("now", "grow from itself"), ("nowhere", "no run here")]
)
def test_run_that_is_named_and_cannot_be_taken_is_refused(tmp_path: Path, name: str, message: str) -> None:
    finished(tmp_path, "unfinished", state="running")
    with pytest.raises(UserError, match=message):
        found(tmp_path, str(tmp_path / name))


def test_latest_outside_of_a_series_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--dated"):
        find_earlier("latest", str(tmp_path), None, STORAGE)


def test_artifacts_of_the_run_and_none_of_its_deliverables_can_be_taken(tmp_path: Path) -> None:
    named = finished(tmp_path, "1")
    earlier = find_earlier(str(named), str(tmp_path / "now"), None, STORAGE)
    assert earlier is not None
    assert set(earlier.manifests) == set(TABLES)
    assert earlier.manifest("scores/mimic").artifact == "scores/mimic"
    with pytest.raises(UserError, match="has no scores/loss"):
        earlier.manifest("scores/loss")
