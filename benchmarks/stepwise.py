"""Trainings in processes of their own that take steps in turn: the next one waits for a word from here.

So two trainers that nobody can call step by step are measured in interleaved pairs, each with its own memory.
"""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.measure import PeakMemory, Run

PATIENCE_SECONDS = 900
_GOODBYE_SECONDS = 10
_GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""glibc's allocator told to give memory back when it is freed, not at some later time."""


class Gate:
    """Where a training waits between steps."""

    def __init__(self, pipe: "Connection[Any, Any]", memory: PeakMemory) -> None:
        self._pipe, self._memory = pipe, memory
        self._left = 0
        self._begun: float | None = None

    def passed(self) -> None:
        """To be called between two steps, from the end of the first one on; that one is a warm-up.

        Raises:
            SystemExit: no more steps are wanted.
        """
        if self._left == 0:
            if self._begun is not None:
                self._pipe.send((time.perf_counter() - self._begun, self._memory.above_idle))
            try:
                self._left = self._pipe.recv()
            except EOFError:
                sys.exit()
            self._begun = time.perf_counter()
        self._left -= 1


class Stepper:
    """A training that does as many steps as it is told."""

    def __init__(
        self,
        work: Callable[..., None],
        *arguments: Any,
        counts: Mapping[str, int],
        world_size: int = 1,
        threads: int,
        for_memory: bool = False,
    ) -> None:
        """Start it.

        Args:
            work: a module-level function, called as work(gate, *arguments) in every rank; only the first rank's gate
                is not None.
            arguments: what else it gets, picklable.
            counts: what each step handles.
            world_size: ranks, each a process, joined by gloo.
            threads: of each rank's arithmetic.
            for_memory: what is freed is given back at once. Peaks are then what is needed, and the same each time; else
                they are several percent more or less by chance. It costs time.
        """
        self._counts, self._name = counts, work.__name__
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_first, args=(there, work, arguments, world_size, threads))
        with _giving_memory_back() if for_memory else nullcontext():
            self._process.start()
        there.close()
        self.peak_bytes = 0
        """Peak resident memory above idle, of all ranks, so far."""

    def steps(self, number: int = 1) -> Run:
        """Let it do so many steps.

        Raises:
            RuntimeError: it ended, or takes too long.
        """
        try:
            self._pipe.send(number)
            if not self._pipe.poll(PATIENCE_SECONDS):
                raise RuntimeError(f"{self._name}: {number} steps took more than {PATIENCE_SECONDS} s")
            seconds, self.peak_bytes = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise RuntimeError(f"{self._name} ended with {self._process.exitcode} between steps") from None
        return Run(seconds, {name: number * count for name, count in self._counts.items()})

    def __enter__(self) -> "Stepper":
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(_GOODBYE_SECONDS)
        if self._process.is_alive():
            self._process.kill()


@contextmanager
def _giving_memory_back() -> Iterator[None]:
    """For processes that start meanwhile, and for theirs."""
    before = {name: os.environ.get(name) for name in _GIVING_BACK}
    os.environ.update(_GIVING_BACK)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _first(
    pipe: "Connection[Any, Any]", work: Callable[..., None], arguments: tuple[Any, ...], world_size: int, threads: int
) -> None:
    torch.set_num_threads(threads)
    if world_size > 1:
        _with_others(work, arguments, world_size, threads)
    with PeakMemory() as memory:  # the other ranks have joined, so what they hold without work is idle too
        work(Gate(pipe, memory), *arguments)


def _with_others(work: Callable[..., None], arguments: tuple[Any, ...], world_size: int, threads: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    context = multiprocessing.get_context("spawn")
    for rank in range(1, world_size):
        others = (rank, world_size, address, work, arguments, threads)
        context.Process(target=_other, args=others, daemon=True).start()
    dist.init_process_group("gloo", address, rank=0, world_size=world_size)


def _other(
    rank: int, world_size: int, address: str, work: Callable[..., None], arguments: tuple[Any, ...], threads: int
) -> None:
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", address, rank=rank, world_size=world_size)
    work(None, *arguments)
