"""What the driver and rank 0 leave for one another on the board."""

from typing import Any

import pytest

from stages.train import board
from stages.train.spec import Standing


def test_board_gives_each_warning_once_and_the_last_standing() -> None:
    held = board.Board()
    assert held.read(told=False) == (None, [])
    held.warn("one")
    held.stand(Standing(1, 10, 2.0, 1.0))
    held.stand(Standing(2, 10, 1.5, 0.4))
    held.warn("two")
    assert held.read(told=False) == (Standing(2, 10, 1.5, 0.4), ["one", "two"])
    assert held.read(told=False) == (Standing(2, 10, 1.5, 0.4), [])


def test_board_keeps_in_mind_that_the_run_shall_end() -> None:
    held = board.Board()
    held.read(told=False)
    assert not held.ending()
    held.read(told=True)
    held.read(told=False)
    assert held.ending()


def test_board_tells_the_standing_without_losing_a_warning() -> None:
    held = board.Board()
    assert held.standing() is None
    held.warn("one")
    held.stand(Standing(1, 10, 2.0, 1.0, 0.25))
    assert held.standing() == Standing(1, 10, 2.0, 1.0, 0.25)
    assert held.read(told=False) == (Standing(1, 10, 2.0, 1.0, 0.25), ["one"])


@pytest.mark.parametrize(
    ("share", "waiting", "note"),
    [
        (1.0, 0.0, "loss 2.500"),
        (0.42, 0.0, "loss 2.500, 42% in effect"),
        (1.0, 0.004, "loss 2.500"),
        (1.0, 0.31, "loss 2.500, 31% of the time waiting for data"),
        (0.42, 0.02, "loss 2.500, 42% in effect, 2% of the time waiting for data"),
    ],
)
def test_standing_is_shown_with_what_is_in_effect_and_what_is_waited_for(
    share: float, waiting: float, note: str
) -> None:
    shown: list[Any] = []

    class Bar:
        def set(self, done: int, note: str = "", *, total: int | None = None) -> None:
            shown.append((done, note, total))

    board._show(Bar(), Standing(24, 96, 2.5, share, waiting))  # type: ignore[arg-type]
    assert shown == [(24, note, 96)]
