"""What a re-run loads, and what a command that fails says."""

import pytest

from benchmarks.cases import fixed_cost
from benchmarks.cases.fixed_cost import _RERUN, _command, _Size, _stages
from tests.benchmarks.cases.conftest import check


def test_rerun_that_loads_torch_is_an_error(tmp_path):
    loads = _RERUN.replace("main()", "import torch", 1)
    assert loads != _RERUN
    with pytest.raises(RuntimeError, match=r"a re-run loaded \['torch'\]"):
        _command(tmp_path, "-c", loads, "--version")


def test_command_that_fails_says_its_last_words(tmp_path):
    with pytest.raises(RuntimeError, match="ended with 2"):
        _command(tmp_path, "-m", "pipeline.cli.app", "run", "--no-such-option")


def test_stages_are_compared_with_themselves(monkeypatch, in_process):
    in_process(fixed_cost)
    lines = check([_stages(_Size(1, 300, 1))])
    (line,) = lines.values()
    assert set(line.seconds) == {"gather", "binarize", "aggregate", "select"}
    assert line.facts["worst"] in line.seconds
