"""All ranks hear of a notice after the same step, and asking costs an exchange only now and then."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.train.notice import Listener, Notice
from stages.train.ranks import Ranks
from tests.stages.train.spawn import run_ranks


class Times:
    """A clock that is read once a question, and moves on by the next step times between."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def listen(step_seconds: list[float], *, notice_from: int | None = None, seconds: float = 1.0) -> tuple[list[int], int]:
    """(steps after which there was a question, step after which the notice was heard or -1)."""
    times, asked, done = Times(), [], 0

    def ask() -> Notice:
        asked.append(done)
        return Notice.NODE_LEAVES if notice_from is not None and done >= notice_from else Notice.NONE

    listener = Listener(ask, Ranks(), seconds=seconds, clock=times)
    for taken in step_seconds:
        times.now += taken
        done += 1
        if listener.after_step():
            return asked, done
    return asked, -1


def test_question_comes_after_the_first_step_and_then_about_once_a_second() -> None:
    asked, _ = listen([0.125] * 64)
    assert asked[:4] == [1, 3, 7, 15]  # twice as many steps each time, until a second is reached
    assert {later - earlier for earlier, later in pairwise(asked[3:])} == {8}


def test_steps_longer_than_the_pause_ask_each_time() -> None:
    assert listen([3.0] * 5)[0] == [1, 2, 3, 4, 5]


def test_steps_that_become_slow_are_asked_after_more_often() -> None:
    asked, _ = listen([0.01] * 400 + [2.0] * 200)
    late = [step for step in asked if step > 500]
    assert late == list(range(late[0], 601))


def test_questions_are_never_further_apart_than_a_hundred_steps() -> None:
    asked, _ = listen([0.0] * 1000)
    assert max(later - earlier for earlier, later in pairwise(asked)) == 100


@given(
    times=st.lists(st.floats(0, 5), min_size=1, max_size=60), notice_from=st.integers(1, 60), seconds=st.floats(0, 3)
)
def test_notice_is_heard_at_the_first_question_after_it(times: list[float], notice_from: int, seconds: float) -> None:
    asked, heard = listen(times, notice_from=notice_from, seconds=seconds)
    later = [step for step in asked if step >= notice_from]
    assert heard == (later[0] if later else -1)


def ranks_hear(first_hears: int, others_hear: int, pace: list[float]) -> list[tuple[int, int]]:
    """(step, notice) at which this rank leaves; clocks and what ranks hear differ."""
    ranks, times, steps = Ranks.current(), Times(), 0
    since = first_hears if ranks.rank == 0 else others_hear

    def ask() -> Notice:
        return Notice.RUN_ENDS if steps >= since else Notice.NONE

    listener = Listener(ask, ranks, clock=times)
    left: list[tuple[int, int]] = []
    while steps < 60 and not left:
        times.now += pace[ranks.rank]
        steps += 1
        notice = listener.after_step()
        if notice:
            left.append((steps, int(notice)))
    return left


@pytest.mark.parametrize(("others_hear", "pace"), [(1, [0.2, 0.01, 4.0]), (1000, [0.2, 4.0, 0.01])])
def test_all_ranks_leave_after_the_step_at_which_the_first_heard(
    others_hear: int, pace: list[float], tmp_path: Path
) -> None:
    left = run_ranks(3, ranks_hear, tmp_path, 20, others_hear, pace)
    alone = listen([pace[0]] * 60, notice_from=20)[1]
    assert left == [[(alone, int(Notice.RUN_ENDS))]] * 3


def words() -> list[object]:
    ranks = Ranks.current()
    return [ranks.word_of_first((ranks.rank, word)) for word in ("a", None)]


def test_word_of_the_first_rank_reaches_all(tmp_path: Path) -> None:
    assert run_ranks(2, words, tmp_path) == [[(0, "a"), (0, None)]] * 2
    assert Ranks().word_of_first("alone") == "alone"
