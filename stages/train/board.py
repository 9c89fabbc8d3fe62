"""What rank 0 tells the driver while it trains, and what the driver tells the ranks."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.progress import Bar, Reporter
from stages.train.notice import Ending, Notice
from stages.train.spec import Standing, TrainSpec

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 0.1
_SLOW_SECONDS = 10.0
_TOLD_SHARE = 0.01


class BarProgress:
    """In the driver's own process: shows progress directly."""

    def __init__(self, bar: Bar, reporter: Reporter, ending: Ending) -> None:
        self._bar, self._reporter, self._ending = bar, reporter, ending
        self.last: Standing | None = None
        """Where training stood last."""

    def stand(self, standing: Standing) -> None:
        self.last = standing
        _show(self._bar, standing)

    def warn(self, text: str) -> None:
        self._reporter.warn(text)

    def committed(self, step: int, loss: float) -> None:
        del step, loss

    def notice(self) -> Notice:
        return Notice.RUN_ENDS if self._ending.is_set() else Notice.NONE


class Board:
    """An actor that holds rank 0's progress until the driver asks for it, and the driver's word until rank 0 asks."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._standing: Standing | None = None
        self._warnings: list[str] = []
        self._ending = False

    def stand(self, standing: Standing) -> None:
        """Replace what is known."""
        self._standing = standing

    def warn(self, text: str) -> None:
        """Keep a warning until it is read."""
        self._warnings.append(text)

    def read(self, *, told: bool) -> tuple[Standing | None, list[str]]:
        """How far training is, and warnings since the last reading; the driver says whether it was told to end."""
        self._ending = self._ending or told
        warnings, self._warnings = self._warnings, []
        return self._standing, warnings

    def standing(self) -> Standing | None:
        """How far training is, as `read` says it, and no warning is lost."""
        return self._standing

    def ending(self) -> bool:
        """Whether the run was told to end."""
        return self._ending


class BoardProgress:
    """In a rank: tells the board, at most some times a second, and never waits for it."""

    def __init__(self, board: Any, *, first: bool) -> None:
        self._board, self._first = board, first
        self._last = 0.0
        self._answer: Any = None

    def stand(self, standing: Standing) -> None:
        now = time.monotonic()
        if now - self._last >= _POLL_SECONDS or standing.samples == standing.total:
            self._last = now
            self._board.stand.remote(standing)

    def warn(self, text: str) -> None:
        import ray

        ray.get(self._board.warn.remote(text))  # a warning must arrive before its rank ends

    def committed(self, step: int, loss: float) -> None:
        import ray.train

        ray.train.report({"step": step, "loss": loss})  # for Ray's dashboard; nothing is uploaded

    def notice(self) -> Notice:
        import ray.train

        leaving = ray.train.get_preemption_info() is not None  # waits for all ranks
        if self._first and self._run_ends():
            return Notice.RUN_ENDS
        return Notice.NODE_LEAVES if leaving else Notice.NONE

    def _run_ends(self) -> bool:
        """What the board last said; an answer that is late is there at the next question."""
        import ray
        from ray.exceptions import RayError

        if self._answer is None:
            self._answer = self._board.ending.remote()
        ready, _ = ray.wait([self._answer], timeout=_PATIENCE_SECONDS)
        if not ready:
            return False
        self._answer = None
        try:
            return bool(ray.get(ready[0]))
        except RayError:  # the driver's node is going; what ends ranks then is Ray
            return False


def last_standing(board: Any) -> Standing | None:
    """Where training stood last; None if the board cannot say."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    try:
        standing: Standing | None = ray.get(board.standing.remote(), timeout=_SLOW_SECONDS)
    except (GetTimeoutError, RayError):  # it is for people; a run does not fail for it
        return None
    return standing


@contextmanager
def progress_shown(spec: TrainSpec, reporter: Reporter, ending: Ending) -> Iterator[Any]:
    """An actor for ranks to report to, and a thread that shows what it knows and passes on that the run shall end."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # errors are told by us, once
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # other nodes may leave
    remote: Any = ray.remote
    board = remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
    stop = threading.Event()
    with reporter.bar(spec.name, None, "samples") as bar:
        watcher = threading.Thread(target=_watch, args=(board, bar, reporter, stop, ending), daemon=True)
        watcher.start()
        try:
            yield board
        finally:
            stop.set()
            watcher.join(timeout=_SLOW_SECONDS)
            ray.kill(board)


def _watch(board: Any, bar: Bar, reporter: Reporter, stop: threading.Event, ending: Ending) -> None:
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    last = False
    while not last:
        last = stop.wait(_POLL_SECONDS)
        try:
            standing, warnings = ray.get(board.read.remote(told=ending.is_set()), timeout=_SLOW_SECONDS)
        except GetTimeoutError:  # still starting, or the machine is busy
            continue
        except RayError:  # the cluster is going away; the run's own error tells why
            return
        for text in warnings:
            reporter.warn(text)
        if standing is not None:
            _show(bar, standing)


def _show(bar: Bar, standing: Standing) -> None:
    effect = f", {standing.effective_share:.0%} in effect" if standing.effective_share < 1 else ""
    waiting = f", {standing.wait_share:.0%} of the time waiting for data" if standing.wait_share >= _TOLD_SHARE else ""
    bar.set(standing.samples, f"loss {standing.loss:.3f}{effect}{waiting}", total=standing.total)
