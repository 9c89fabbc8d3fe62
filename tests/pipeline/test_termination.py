"""SIGTERM at once, or after the time that work was given to save itself."""

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from pipeline.termination import Terminated, aside, end_at_sigterm, own_sigterm, time_to_save

LONG = 60.0


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    end_at_sigterm()
    yield
    signal.signal(signal.SIGTERM, before)


def tell() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_what_asked_for_no_time() -> None:
    with pytest.raises(Terminated):
        tell()
    tell()  # a second one does not break off the tidying up


def within(seconds: float, work: Callable[[threading.Event], None]) -> None:
    with time_to_save(seconds) as told:
        work(told)


def test_sigterm_lets_work_go_on_that_asked_for_time_and_ends_it_when_it_leaves() -> None:
    steps: list[int] = []

    def work(told: threading.Event) -> None:
        while not told.is_set():
            steps.append(len(steps))
            if len(steps) == 3:
                tell()
                steps.append(3)

    with pytest.raises(Terminated):
        within(LONG, work)
    assert steps == [0, 1, 2, 3]
    tell()  # ignored: it ends already


def test_work_that_does_not_leave_in_time_is_broken_off() -> None:
    reached: list[str] = []

    def work(told: threading.Event) -> None:
        tell()
        reached.append("told" if told.is_set() else "not told")
        threading.Event().wait(LONG)
        reached.append("the end")

    with pytest.raises(Terminated):
        within(0.05, work)
    assert reached == ["told"]


def test_second_sigterm_breaks_off_at_once() -> None:
    reached: list[str] = []

    def work(_: threading.Event) -> None:
        tell()
        reached.append("after the first")
        tell()
        reached.append("after the second")

    with pytest.raises(Terminated):
        within(LONG, work)
    assert reached == ["after the first"]


def test_work_that_was_never_told_ends_as_ever() -> None:
    with time_to_save(LONG) as told:
        assert not told.is_set()
    with pytest.raises(Terminated):
        tell()


def test_error_of_the_work_is_what_is_told() -> None:
    def work(_: threading.Event) -> None:
        tell()
        raise ValueError("not finite")

    with pytest.raises(ValueError, match="not finite"):
        within(LONG, work)
    tell()  # ignored all the same


def test_time_to_save_leaves_foreign_handlers_and_other_threads_alone() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    with time_to_save(LONG) as told:
        tell()
        assert not told.is_set()
    assert heard == [signal.SIGTERM]
    outcome: list[bool] = []

    def work() -> None:
        with time_to_save(LONG) as told:
            outcome.append(told.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcome == [False]


def test_own_handler_is_put_back_after_foreign_code_took_it() -> None:
    with own_sigterm():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(Terminated):
        tell()


def test_call_aside_gives_its_value_and_its_error() -> None:
    assert aside(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        aside(lambda: 1 // 0)


def test_call_aside_that_hears_nothing_is_left_to_itself_at_sigterm() -> None:
    never = threading.Event()
    threading.Timer(0.2, tell).start()
    with pytest.raises(Terminated):
        aside(never.wait)
    never.set()


def test_call_aside_is_waited_for_no_longer_than_the_caller_wishes() -> None:
    never, looks = threading.Event(), [1, 2, 3]

    def look() -> None:
        if not looks:
            raise TimeoutError
        looks.pop()

    with pytest.raises(TimeoutError):
        aside(never.wait, while_waiting=look)
    never.set()
