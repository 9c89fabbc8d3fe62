"""`verify` on runs small enough to damage in every byte."""

from pathlib import Path

import pytest

from pipeline.errors import RunError, UserError
from pipeline.progress import Reporter
from pipeline.run_record import RunRecord
from pipeline.storage import Storage, StorageConfig, join
from pipeline.verify import verify
from tests.pipeline.test_verify_unlisted import SUBSET, VOTES, Run


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A finished run of two artifacts."""
    run = Run(str(tmp_path / "run"), Storage())
    config = {"storage": StorageConfig().model_dump(mode="json"), "select": {"exclude": []}}
    record = RunRecord(run.output, run.storage, config, ["votes", SUBSET])
    record.stage("votes", "done", run.artifacts["votes"], join(run.output, VOTES, "manifest.json"))
    record.stage(SUBSET, "done", run.artifacts[SUBSET], join(run.output, f"manifests/{SUBSET}.json"))
    record.finish("done")
    return tmp_path / "run"


def _flaws(output: Path) -> list[str]:
    """Places that verify names, or the error that it ends with."""
    try:
        return [difference.where for difference in verify(str(output), Storage(), Reporter()).differences]
    except (RunError, UserError) as error:
        return [str(error)]


@pytest.mark.parametrize(
    "path", ["run.json", "manifests/subset.json", f"{VOTES}/manifest.json", "subset/a.bin", f"{VOTES}/folder/b.bin"]
)
def test_any_byte_that_changes_anywhere_in_a_run_is_found_by_name(
    output: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.verify.import_module", lambda name: pytest.fail("contents of a damaged run"))
    whole = (output / path).read_bytes()
    for place in range(len(whole)):
        (output / path).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = _flaws(output)
        assert any(str(output / path) in flaw for flaw in found), (place, whole[place - 20 : place + 20], found)
