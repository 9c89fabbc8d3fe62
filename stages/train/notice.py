"""Word that ranks will be stopped soon: heeded by all of them after the same step, with a checkpoint taken there."""

import time
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # brings torch, which a driver with nothing to train does without
    from stages.train.ranks import Ranks


class Ending(Protocol):
    """Whether the run shall end; an Event is one."""

    def is_set(self) -> bool:
        """Asked about every second, from any thread; once true, always true."""


LISTEN_SECONDS = 1.0
_MOST_STEPS = 100


class Notice(IntEnum):
    """Why ranks will be stopped."""

    NONE = 0
    NODE_LEAVES = 1
    """A node under a rank is drained: preempted, or scaled down."""
    RUN_ENDS = 2
    """The run was told to end, or has used what it may."""


class Listener:
    """Asks now and then whether there is a notice; every rank holds one and gets the first rank's answer.

    Asking is an exchange between ranks, so it must not cost each step one. With its answer the first rank hands out
    after how many steps all of them ask again: as many as lately went by in `LISTEN_SECONDS`. Between two questions
    nothing is exchanged, and clocks that differ between ranks do no harm.
    """

    def __init__(
        self,
        ask: Callable[[], Notice],
        ranks: "Ranks",
        *,
        seconds: float = LISTEN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """The first question is due after one step.

        Args:
            ask: called in every rank after the same steps; what it returns counts in the first rank only.
            ranks: this process among its peers.
            seconds: between questions, about.
            clock: seconds since some moment.
        """
        self._ask, self._ranks, self._seconds, self._clock = ask, ranks, seconds, clock
        self._asked_at = clock()
        self._steps = 0
        self._due = 1

    def after_step(self) -> Notice:
        """To be called after every step, in every rank; the same in all of them."""
        self._steps += 1
        if self._steps < self._due:
            return Notice.NONE
        notice, self._due = self._ranks.word_of_first((self._ask(), self._pause()))
        self._steps = 0
        return Notice(notice)

    def _pause(self) -> int:
        """Steps to the next question, from how long the last ones took."""
        now = self._clock()
        elapsed, self._asked_at = now - self._asked_at, now
        fitting = int(self._steps * self._seconds / max(elapsed, 1e-9))
        return max(1, min(fitting, 2 * self._steps, _MOST_STEPS))  # grows slowly: the next steps may take longer
