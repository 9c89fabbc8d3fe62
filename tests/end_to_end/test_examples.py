"""Every `gradsieve` command that the documents and help texts show, typed in as it stands.

What is long is planned instead of run: the tiny run of the other tests is the same job. Where a command names the
demo's pool or run, the tiny ones lie in that place.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer

from pipeline.cli.app import app, main
from pipeline.yaml_config import shipped_names
from tests.docs.examples import ROOT, Example, examples

pytestmark = pytest.mark.slow

_SHOWN = {
    " ".join(example.words): example
    for example in examples()
    if example.words[0] == "gradsieve" or example.words[:3] == ["python", "-m", "pipeline.run"]
}
_UID = "0123456789abcdef" * 2


@pytest.fixture
def home(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the documents have it in mind: a demo pool, a finished run, a configuration of one's own."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/demo").symlink_to(finished.parents[1] / "pool")
    (tmp_path / "runs").mkdir()
    shutil.copytree(finished, tmp_path / "runs/demo", copy_function=os.link)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for name in ("my.yaml", "nightly.yaml"):
        shutil.copy(ROOT / "pipeline/configs/demo.yaml", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # nobody's bucket is asked
    return tmp_path


def _leaves(*arguments: str) -> object:
    with pytest.raises(SystemExit) as leave:
        main(arguments)
    return leave.value.code


def _parses(name: str, *arguments: str) -> None:
    """What it takes is known, though nothing is done."""
    group = typer.main.get_command(app)
    command = group.get_command(group.make_context("gradsieve", [], resilient_parsing=True), name)  # type: ignore[attr-defined]
    command.make_context(name, list(arguments))


@pytest.mark.parametrize("example", _SHOWN.values(), ids=str)
def test_command_that_is_shown_does_what_it_says(
    example: Example, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uid = np.load(home / "runs/demo/subset/sample_ids.npy")[0]
    places = {"RUN": "runs/demo", "UID": f"{uid['f0']:016x}{uid['f1']:016x}"}
    places[_UID] = places["UID"]
    words = [places.get(word, word) for word in example.words]
    arguments = words[1:] if words[0] == "gradsieve" else ["run", *words[3:]]
    files = set(home.rglob("*"))
    if len(arguments) == 1:  # a mention
        assert _leaves(*arguments, "--help") == 0
    elif arguments[:2] == ["pool", "make"]:  # by the fixture, with fewer samples; here it finds what is there
        assert _leaves(*arguments) == 2
        assert "folder holds another demo pool" in capsys.readouterr().err
    elif arguments[0] in ("submit", "gc") or any(word.startswith("s3://") for word in arguments):
        _parses(*arguments)  # needs a cluster, or a bucket
    elif arguments[0] == "run":
        assert _leaves(*arguments, *(["--plan"] if "--plan" not in arguments else [])) == 0
        assert "to run: " in capsys.readouterr().out
    else:
        assert _leaves(*arguments) == 0
        assert capsys.readouterr().out
    assert set(home.rglob("*")) == files


def test_every_shipped_configuration_is_shown_somewhere() -> None:
    shown = {name for name in shipped_names() for line in _SHOWN if f"run {name}" in line}
    assert shown == set(shipped_names())
