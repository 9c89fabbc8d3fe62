"""Decoding processes: what they give, what they say of broken samples, and how they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RunError
from stages.train.decode_pool import DecodePool
from stages.train.decode_process import Setup
from stages.train.decoder import Decoder, Encoded
from stages.train.shared_batches import BatchShape, SharedBatches
from tests.stages.formats.test_sample import image_bytes, sample_bytes
from tests.stages.models.tiny import TINY

SHAPE = BatchShape(4, TINY.image_size, TINY.context_length)
SETUP = Setup(TINY, "exact", SHAPE, 4)
SAMPLES = Encoded(
    [sample_bytes({"1.png": image_bytes("PNG", (20 + n, 30)), "1.txt": b"number %d" % n}) for n in range(3)],
    [f"here, sample {n}" for n in range(3)],
)
PATIENCE = 200


@pytest.fixture(scope="module")
def memory() -> SharedBatches:
    return SharedBatches(SHAPE, 4)  # an error that was caught may hold some for a while


@pytest.fixture(scope="module")
def pool(memory: SharedBatches) -> Iterator[DecodePool]:
    pool = DecodePool(SETUP, memory, 1)
    yield pool
    pool.close()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def waited_for(pid: int) -> bool:
    end = time.monotonic() + PATIENCE
    while not gone(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return gone(pid)


def test_process_gives_what_a_thread_gives_and_touches_no_other_row(pool: DecodePool, memory: SharedBatches) -> None:
    batch = memory.take()
    pool.fill(SAMPLES, batch, slice(1, 4))
    images, tokens = np.zeros_like(batch.images), np.zeros_like(batch.tokens)
    Decoder(TINY, "exact").fill(SAMPLES, images[1:], tokens[1:])
    np.testing.assert_array_equal(batch.images, images)
    np.testing.assert_array_equal(batch.tokens, tokens)
    assert tokens[1:].any(axis=1).all()


def test_broken_sample_is_told_as_in_a_thread_and_the_process_goes_on(pool: DecodePool, memory: SharedBatches) -> None:
    broken = SAMPLES._replace(data=[SAMPLES.data[0], b"\x01" * 512, SAMPLES.data[2]])
    batch, pids = memory.take(), pool.pids
    with pytest.raises(RunError) as here:
        Decoder(TINY, "exact").fill(broken, batch.images[:3], batch.tokens[:3])
    with pytest.raises(RunError) as there:
        pool.fill(broken, batch, slice(0, 3))
    assert str(there.value) == str(here.value)
    assert "here, sample 1" in str(there.value)
    pool.fill(SAMPLES, batch, slice(0, 3))
    assert pool.pids == pids


def test_interrupt_from_the_keyboard_is_left_to_the_rank(pool: DecodePool, memory: SharedBatches) -> None:
    batch, pids = memory.take(), pool.pids
    pool.fill(SAMPLES, batch, slice(0, 3))
    os.kill(pids[0], signal.SIGINT)
    pool.fill(SAMPLES, batch, slice(0, 3))
    assert pool.pids == pids


def test_process_that_is_killed_is_replaced_and_its_work_done_again(pool: DecodePool, memory: SharedBatches) -> None:
    batch, again = memory.take(), memory.take()
    pool.fill(SAMPLES, batch, slice(0, 3))
    (pid,) = pool.pids
    os.kill(pid, signal.SIGKILL)
    pool.fill(SAMPLES, again, slice(0, 3))
    assert pool.pids != [pid]
    np.testing.assert_array_equal(again.images[:3], batch.images[:3])
    np.testing.assert_array_equal(again.tokens[:3], batch.tokens[:3])


def test_processes_that_die_of_their_work_stop_with_place_signal_and_advice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As the kernel does it where memory runs out."""
    memory = SharedBatches(SHAPE, 1)
    (tmp_path / "sitecustomize.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = DecodePool(SETUP._replace(num_slots=1), memory, 1)
    with pytest.raises(RunError, match=r"(?s)died twice.*3 samples from here, sample 0.*SIGKILL.*loader_processes"):
        pool.fill(SAMPLES, memory.take(), slice(0, 3))
    pool.close()


def test_closed_pool_leaves_no_process() -> None:
    pool = DecodePool(SETUP, SharedBatches(SHAPE, 4), 2)  # closed while it starts
    pool.close()
    assert all(map(gone, pool.pids))


def test_processes_end_with_a_rank_that_is_killed() -> None:
    script = (
        "import time; from tests.stages.train.test_decode_pool import *\n"
        "memory = SharedBatches(SHAPE, 4); pool = DecodePool(SETUP, memory, 1)\n"
        "pool.fill(SAMPLES, memory.take(), slice(0, 3)); print(*pool.pids, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as rank:
        assert rank.stdout is not None
        pids = [int(pid) for pid in rank.stdout.readline().split()]
        assert len(pids) == 1
        assert not any(map(gone, pids))
        rank.kill()
    assert all(map(waited_for, pids))
