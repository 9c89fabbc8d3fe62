import pickle
from collections import Counter
from pathlib import Path

import pytest

from pipeline.errors import UserError
from tests.bad_input.__main__ import main
from tests.bad_input.case import MARKER, Case, Observed, observe
from tests.bad_input.corpus import CASES
from tests.bad_input.weights import harmful


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}: {case.name}")
def test_bad_input_ends_as_wanted(case: Case, tmp_path: Path) -> None:
    _, problems = observe(case, tmp_path)
    assert problems == []


def test_names_are_unique() -> None:
    assert [name for name, count in Counter((case.family, case.name) for case in CASES).items() if count > 1] == []


def test_every_outcome_is_wanted_of_some() -> None:
    wanted = Counter(case.outcome for case in CASES)
    assert all(wanted[outcome] >= 30 for outcome in ("accepted", "quarantined", "refused"))


def _crash(root: Path) -> Observed:
    raise KeyError("uid")


def _unclear(root: Path) -> Observed:
    raise UserError("something is wrong", where="0.tar")


def _unpickle(root: Path) -> Observed:
    pickle.loads(pickle.dumps(harmful(root)))
    return Observed("accepted", "")


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        (_crash, "KeyError instead of accepted"),
        (_unclear, "no `next` in the message"),
        (_unclear, "refused instead of accepted"),
        (_unpickle, "unpickled"),
        (lambda root: Observed("accepted", "uid"), "'uid' instead of ''"),
        (lambda root: Observed("accepted", "", ("0123",)), "lost: 0123"),
        (lambda root: Observed("quarantined", "no_uid"), "quarantined instead of accepted"),
    ],
)
def test_what_ends_otherwise_is_told(run, problem: str, tmp_path: Path) -> None:
    _, problems = observe(Case("x", "x", "accepted", (), run), tmp_path)
    assert any(problem in each for each in problems)


def test_marker_is_not_there_before_anything_was_loaded(tmp_path: Path) -> None:
    pickle.dumps(harmful(tmp_path))
    assert not (tmp_path / MARKER).exists()


def test_command_prints_a_row_a_case_and_fails_when_nothing_was_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("caption: ") == 0
    printed = capsys.readouterr().out
    chosen = [case for case in CASES if case.family == "caption"]
    assert all(case.name in printed for case in chosen)
    assert f"{len(chosen)} bad inputs, 0 differences" in printed
    assert main("no case is called so") == 1


def test_command_fails_on_a_difference(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tests.bad_input.__main__.CASES", [Case("crash", "x", "accepted", (), _crash)])
    assert main() == 1
    assert "x: crash: KeyError instead of accepted" in capsys.readouterr().out
