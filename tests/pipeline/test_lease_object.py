"""One run at a time on an output in a store: who holds the object, when it may be taken over, how it is given back."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import lease_object
from pipeline.errors import LockedError
from pipeline.lease import LEASE_NAME, held, is_abandoned
from pipeline.lease_object import Holder, Pace
from pipeline.progress import Reporter
from pipeline.storage import Storage, join


class FolderAsStore:
    """`s3://bucket/...` served by a local folder, with its whole-object and compare-and-swap rules."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._local = str(folder), Storage()

    def _at(self, uri: str) -> str:
        return join(self._folder, uri.removeprefix("s3://"))

    def read_bytes(self, uri: str) -> bytes:
        return self._local.read_bytes(self._at(uri))

    def compare_and_swap(self, uri: str, old: bytes | None, new: bytes) -> None:
        self._local.compare_and_swap(self._at(uri), old, new)


OUTPUT = "s3://bucket/run"
URI = f"{OUTPUT}/{LEASE_NAME}"
PACE = Pace(renew=0.05, expiry=60, poll=0.05)
HASTE = replace(PACE, expiry=0.6)


@pytest.fixture
def store(tmp_path):
    return FolderAsStore(tmp_path)


def test_object_is_released_when_the_run_ends_and_can_be_held_again(store):
    for _ in range(2):
        with held(OUTPUT, store, Reporter(), pace=PACE):
            assert json.loads(store.read_bytes(URI))["pid"] == os.getpid()
        assert json.loads(store.read_bytes(URI))["holder"] == ""


def test_object_held_by_a_living_process_here_is_refused_at_once(store):
    with (
        held(OUTPUT, store, Reporter(), pace=PACE),
        pytest.raises(LockedError),
        held(OUTPUT, store, Reporter(), pace=PACE),
    ):
        pass


def test_object_held_by_a_living_process_elsewhere_is_refused_once_it_is_seen_to_change(store):
    stop = threading.Event()

    def beat():
        content = None
        for counter in range(10_000):
            new = Holder("other", "elsewhere", 1, "1", counter).to_json()
            store.compare_and_swap(URI, content, new)
            content = new
            if stop.wait(0.1):
                return

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        while not _exists(store):
            time.sleep(0.01)
        with pytest.raises(LockedError), held(OUTPUT, store, Reporter(), pace=PACE):
            pass
    finally:
        stop.set()
        thread.join()
    assert json.loads(store.read_bytes(URI))["holder"] == "other"


def _exists(store):
    try:
        return bool(store.read_bytes(URI))
    except FileNotFoundError:
        return False


def test_object_that_stays_the_same_is_taken_over_not_before_it_expires(store):
    store.compare_and_swap(URI, None, Holder("gone", "elsewhere", 1, "1", 7).to_json())
    before = time.monotonic()
    with held(OUTPUT, store, Reporter(), pace=HASTE):
        assert time.monotonic() - before >= HASTE.expiry
        assert json.loads(store.read_bytes(URI))["holder"] != "gone"


def test_object_of_a_dead_process_on_this_host_is_taken_over_at_once(store):
    code = "from pipeline.lease_object import Holder; import sys; sys.stdout.buffer.write(Holder.mine().to_json())"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment).stdout
    store.compare_and_swap(URI, None, died)
    with held(OUTPUT, store, Reporter(), pace=replace(PACE, expiry=1e9)):
        assert json.loads(store.read_bytes(URI))["pid"] == os.getpid()


def test_object_whose_process_id_was_given_to_another_process_is_dead(store):
    mine = Holder.mine()
    assert not mine.is_dead()
    assert replace(mine, started="1").is_dead()
    assert not replace(mine, started="1", host="elsewhere").is_dead()


def test_object_is_abandoned_where_its_process_is_known_to_be_dead(store):
    assert not is_abandoned(OUTPUT, store)
    with held(OUTPUT, store, Reporter(), pace=PACE):
        assert not is_abandoned(OUTPUT, store)
    assert is_abandoned(OUTPUT, store)
    for host, known in (("elsewhere", False), (Holder.mine().host, True)):
        gone = replace(Holder.mine(), host=host, started="1")
        store.compare_and_swap(URI, store.read_bytes(URI), gone.to_json())
        assert is_abandoned(OUTPUT, store) == known


def test_object_is_renewed_while_it_is_held(store):
    with held(OUTPUT, store, Reporter(), pace=PACE):
        first = store.read_bytes(URI)
        deadline = time.monotonic() + 20
        while store.read_bytes(URI) == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert json.loads(store.read_bytes(URI))["counter"] > json.loads(first)["counter"]


def test_object_that_was_taken_over_is_neither_renewed_nor_given_back(store):
    usurper = Holder("usurper", "elsewhere", 1, "1").to_json()
    with held(OUTPUT, store, Reporter(), pace=PACE):
        taken = False
        while not taken:
            taken = lease_object._swap(URI, store, store.read_bytes(URI), Holder("usurper", "elsewhere", 1, "1"))
    assert store.read_bytes(URI) == usurper


def test_object_that_is_waited_for_is_held_after_the_other_run_ended(store):
    events = []

    def waiter():
        with held(OUTPUT, store, Reporter(), wait=True, pace=PACE):
            events.append("second")

    with held(OUTPUT, store, Reporter(), pace=PACE):
        thread = threading.Thread(target=waiter)
        thread.start()
        thread.join(0.8)
        assert thread.is_alive()
        events.append("first")
    thread.join(10)
    assert events == ["first", "second"]


def test_object_that_cannot_be_read_expires_like_any_other(store):
    store.compare_and_swap(URI, None, b"\xff not a lease")
    with held(OUTPUT, store, Reporter(), pace=HASTE):
        assert json.loads(store.read_bytes(URI))["pid"] == os.getpid()


def test_answer_lost_to_a_swap_that_succeeded_is_taken_for_success(store):
    mine = Holder.mine()
    store.compare_and_swap(URI, None, mine.to_json())
    assert lease_object._swap(URI, store, None, mine)
    assert not lease_object._swap(URI, store, None, Holder("other"))
