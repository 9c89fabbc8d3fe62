"""The lease of an output on a real store, between real processes: refused, waited for, killed, stalled, woken."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import LockedError
from pipeline.lease import LEASE_NAME, held
from pipeline.lease_object import Pace
from pipeline.progress import Reporter
from pipeline.storage import Storage, join
from tests.end_to_end.runs import gradsieve
from tests.object_store.conftest import BUCKET, storage_through
from tests.object_store.hold_lease import LeaseProcess
from tests.object_store.processes import PATIENCE
from tests.servers.fault_proxy import FaultProxy
from tests.servers.fixtures import Store

ROOT = Path(__file__).parents[2]
NEVER = 1e9
"""Seconds of an expiry that only a death can come before."""

Start = Callable[..., LeaseProcess]


@pytest.fixture
def store(rgw_store: Store) -> Iterator[Store]:
    """The real one alone."""
    rgw_store.make_bucket(BUCKET)
    with rgw_store.signed():
        yield rgw_store


@pytest.fixture
def start(store: Store, place: str) -> Iterator[Start]:
    """Starts processes that take the lease of the test's place; they end with the test."""
    started: list[LeaseProcess] = []

    def run(*, wait: bool = False, elsewhere: bool = False, expiry: float = NEVER) -> LeaseProcess:
        pace = Pace(renew=0.1, expiry=expiry, poll=0.1)
        handle = store.storage()
        process = LeaseProcess.start(place, handle, store.environment, wait=wait, elsewhere=elsewhere, pace=pace)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()


def _content(store: Store, place: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(store.storage().read_bytes(join(place, LEASE_NAME)))
    return found


def _counter(store: Store, place: str) -> int:
    return int(str(_content(store, place)["counter"]))


def test_second_process_is_refused_with_exit_code_3_and_a_third_one_waits(
    store: Store, place: str, start: Start
) -> None:
    first = start()
    first.until("holding")
    second = start()
    second.until("another run is writing here")
    second.process.join(PATIENCE)
    assert second.process.exitcode == 3
    third = start(wait=True)
    third.until("waiting for it to end")
    assert _content(store, place)["pid"] == first.pid
    first.give_back()
    third.until("holding")
    assert _content(store, place)["pid"] == third.pid
    third.give_back()
    assert _content(store, place)["holder"] == ""


def test_process_on_another_machine_is_refused_once_it_sees_a_change(store: Store, place: str, start: Start) -> None:
    first = start(elsewhere=True)
    first.until("holding")
    second = start()
    second.until("another run is writing here")
    assert "seeing for up to" in second.told[0]
    assert _content(store, place)["pid"] == first.pid


def test_killed_holder_on_this_machine_is_followed_at_once(store: Store, place: str, start: Start) -> None:
    """The expiry never comes: the successor knows by the process alone."""
    first = start()
    first.until("holding")
    first.kill()
    second = start()
    second.until("holding")
    assert _content(store, place)["pid"] == second.pid


def test_killed_holder_on_another_machine_is_followed_after_the_expiry_and_not_before(
    store: Store, place: str, start: Start
) -> None:
    first = start(elsewhere=True)
    first.until("holding")
    first.kill()
    before = time.monotonic()
    with held(place, store.storage(), Reporter(), pace=Pace(renew=0.1, expiry=1.5, poll=0.1)):
        assert time.monotonic() - before >= 1.5
        assert _content(store, place)["pid"] == os.getpid()


def test_stalled_holder_is_followed_and_finds_the_lease_taken_when_it_wakes(
    store: Store, place: str, start: Start
) -> None:
    first = start()
    first.until("holding")
    first.signal(signal.SIGSTOP)
    second = start(wait=True, expiry=1.5)
    second.until("holding")
    mine = _content(store, place)
    assert mine["pid"] == second.pid
    first.signal(signal.SIGCONT)
    first.until("another run took")
    assert "both go on and end in one result" in first.told[-1]
    _wait_until(lambda: _counter(store, place) > 5)
    first.give_back()  # what it worked on goes on to its end, and takes nothing back
    now = _content(store, place)
    assert (now["pid"], now["holder"]) == (second.pid, mine["holder"])
    second.give_back()
    assert not any("another run took" in line for line in second.told)
    assert _content(store, place)["holder"] == ""


def test_stalled_holder_that_nobody_followed_goes_on_when_it_wakes(store: Store, place: str, start: Start) -> None:
    first = start()
    first.until("holding")
    first.signal(signal.SIGSTOP)
    with pytest.raises(LockedError), held(place, store.storage(), Reporter()):
        pass  # a stopped process still lives here: refused at once to whoever does not wait
    before = _counter(store, place)
    first.signal(signal.SIGCONT)
    _wait_until(lambda: _counter(store, place) > before)
    first.give_back()
    assert first.told == ["holding", "given back"]


def test_many_that_find_a_dead_holder_take_turns(store: Store, place: str, start: Start) -> None:
    first = start()
    first.until("holding")
    first.kill()
    inside = threading.Semaphore(1)
    pace = Pace(renew=0.1, expiry=NEVER, poll=0.05)

    def work(_: int) -> bool:
        with held(place, store.storage(), Reporter(), wait=True, pace=pace):
            alone = inside.acquire(blocking=False)
            time.sleep(0.05)
            inside.release()
            return alone

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [True] * 6


def test_lease_is_kept_through_faults_of_the_store(store: Store, place: str, proxy: FaultProxy) -> None:
    storage: Storage = storage_through(proxy, max_attempts=2)
    pace = Pace(renew=0.05, expiry=NEVER, poll=0.05)
    with held(place, storage, Reporter(), pace=pace):
        for fault in ("slow_down", "reset_after", "reset_before", "internal_error"):
            proxy.plan(*[fault] * 7, only=LEASE_NAME)  # type: ignore[list-item]
            _wait_until(lambda: len(proxy.requests) >= 12)
        proxy.calm()
        before = _counter(store, place)
        _wait_until(lambda: _counter(store, place) > before)
        assert _content(store, place)["pid"] == os.getpid()
    assert _content(store, place)["holder"] == ""


def test_run_on_a_held_output_is_refused_with_exit_code_3(
    store: Store, place: str, start: Start, tmp_path: Path
) -> None:
    storage = store.storage()
    for name in ("shards/00000000.tar", "metadata/a.parquet", "trusted.npy", "eval/x/test/0.tar", "truth.parquet"):
        storage.put(join(place, "pool", name), b"not looked at yet")
    storage.put(join(place, "tiny.yaml"), _tiny_configuration(place).encode())
    first = start()
    first.until("holding")
    ended = gradsieve("run", join(place, "tiny.yaml"), f"output={place}", cwd=tmp_path, AWS_ENDPOINT_URL=store.endpoint)
    assert ended.returncode == 3, ended.stderr
    assert "another run is writing here" in ended.stderr
    assert "--wait" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not storage.exists(join(place, "run.json"))


def _tiny_configuration(place: str) -> str:
    text = (ROOT / "tests/configs/tiny.yaml").read_text()
    return text.replace(" pool/", f" {place}/pool/")


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
