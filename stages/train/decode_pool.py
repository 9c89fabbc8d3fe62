"""Decoding in processes beside the rank, seen from the rank.

One that dies (the kernel kills the largest when memory runs out) is replaced once for each piece of work; what it was
to do is done again, with the same result.
"""

import os
import queue
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import Any

from pipeline.errors import RunError
from stages.train.decode_process import Request, Setup
from stages.train.decoder import Encoded
from stages.train.shared_batches import BatchMemory, SharedBatches

_PATIENCE_SECONDS = 5.0


class DecodePool:
    """As many processes as decode at once; `fill` may be called by as many threads."""

    def __init__(self, setup: Setup, memory: SharedBatches, num_processes: int) -> None:
        """Start the processes; they are ready some seconds later, and work that comes before waits."""
        self._setup, self._memory = setup, memory
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all = [_Process(setup, memory) for _ in range(num_processes)]
        for process in self._all:
            self._idle.put(process)

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [process.pid for process in self._all]

    def fill(self, encoded: Encoded, memory: BatchMemory, rows: slice) -> None:
        """`Decoder.fill` in one of the processes, into rows of a batch.

        Raises:
            RunError: as there, or two processes in turn died over these samples.
        """
        lengths = [len(data) for data in encoded.data]
        request = Request(memory.slot, rows.start, lengths, list(encoded.places))
        data = b"".join(encoded.data)
        process = self._idle.get()
        try:
            try:
                process.work(request, data)
            except _EndedError:
                process = self._replaced(process)
                process.work(request, data)
        except _EndedError as ended:
            raise RunError(
                "a decoding process died twice over the same samples",
                where=f"{len(lengths)} samples from {encoded.places[0]}",
                expected="pixels and tokens",
                found=ended,
                next_step="memory is the usual reason: lower `train.loader_processes`, or give the rank more of it",
            ) from ended
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End the processes."""
        for process in self._all:
            process.hang_up()
        for process in self._all:
            process.end()
        self._memory.close_file()

    def _replaced(self, process: "_Process") -> "_Process":
        process.hang_up()
        process.end()
        fresh = _Process(self._setup, self._memory)
        self._all[self._all.index(process)] = fresh
        return fresh


class _EndedError(Exception):
    """A process ended while it was needed."""


class _Process:
    """One decoding process, seen from the rank."""

    def __init__(self, setup: Setup, memory: SharedBatches) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            files = (theirs.fileno(), memory.file)
            # Not forked: the rank has threads that hold locks. Not by `multiprocessing`: it would run the main module.
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-m", "stages.train.decode_process", *map(str, files)],
                pass_fds=files,
                env={**os.environ, "PYTHONPATH": _module_path(), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
            )
        self._connection: Connection[Any, Any] = Connection(ours.detach())
        self._setup: Setup | None = setup
        self.pid = self._process.pid

    def work(self, request: Request, data: bytes) -> None:
        """Have a piece of work done.

        Raises:
            _EndedError: the process is gone.
        """
        try:
            if self._setup is not None:
                self._connection.send(self._setup)
                self._setup = None
            self._connection.send(request)
            self._connection.send_bytes(data)
            failure = self._connection.recv()
        except (EOFError, OSError) as error:
            raise _EndedError(self._end_of_it()) from error
        if failure is not None:
            raise failure

    def hang_up(self) -> None:
        """Let it end by itself."""
        self._connection.close()

    def end(self) -> None:
        """Wait for its end, and kill it if that takes long."""
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _end_of_it(self) -> str:
        try:
            code = self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            return "its connection is closed"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _module_path() -> str:
    """Where this process finds its modules, so that the others find the same ones; an empty entry is its folder."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)
