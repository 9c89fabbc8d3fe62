"""Each fault between us and the store, on each kind of request: the result is right, or the error says why."""

import os
import pickle
import socket
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline import storage_s3_requests
from pipeline.errors import RunError, UserError
from pipeline.storage import AlreadyExistsError, ConflictError, Storage, join
from tests.object_store.conftest import storage_through
from tests.servers.fault_proxy import Fault, FaultProxy
from tests.servers.fixtures import Store

BEFORE: tuple[Fault, ...] = ("reset_before", "slow_down", "internal_error")
"""Faults after which the server has done nothing."""
LOST: tuple[Fault, ...] = ("reset_after",)
"""The server has done what was asked, and nobody knows."""
CUT: tuple[Fault, ...] = ("reset_mid_body", "truncated_body")
DATA = os.urandom(200_000)


@pytest.mark.parametrize("fault", [*BEFORE, *LOST, *CUT])
def test_whole_object_after_faults_is_read_whole(fault: Fault, proxy: FaultProxy, through: Storage, place: str) -> None:
    through.put(join(place, "a"), DATA)
    proxy.plan(fault, fault)
    assert through.read_bytes(join(place, "a")) == DATA
    assert len(proxy.requests) == 3


@pytest.mark.parametrize("fault", [*BEFORE, *LOST, *CUT])
def test_range_after_faults_is_exact(fault: Fault, proxy: FaultProxy, through: Storage, place: str) -> None:
    through.put(join(place, "a"), DATA)
    proxy.plan(fault, fault)
    assert through.read_range(join(place, "a"), 1000, 150_000) == DATA[1000:151_000]
    assert len(proxy.requests) == 3


@pytest.mark.parametrize("fault", [*BEFORE, *LOST, *CUT])
def test_list_and_stat_after_faults_are_whole(fault: Fault, proxy: FaultProxy, through: Storage, place: str) -> None:
    for name in ("a", "b", "c"):
        through.put(join(place, name), name.encode())
    proxy.plan(fault, fault)
    assert [stat.bytes for stat in through.list(place)] == [1, 1, 1]
    proxy.plan(*[fault] * (fault not in CUT))  # an answer to HEAD has no body to cut
    assert through.stat(join(place, "b")).bytes == 1


@pytest.mark.parametrize("fault", [*BEFORE, *LOST])
def test_put_and_delete_after_faults_are_done(fault: Fault, proxy: FaultProxy, through: Storage, place: str) -> None:
    proxy.plan(fault, fault)
    through.put(join(place, "a"), DATA)
    assert through.read_bytes(join(place, "a")) == DATA
    proxy.plan(fault)
    through.delete(join(place, "a"))
    assert not through.exists(join(place, "a"))


@pytest.mark.parametrize("fault", [*BEFORE, *LOST])
def test_own_conditional_put_after_faults_is_recognised(
    fault: Fault, proxy: FaultProxy, through: Storage, place: str, tmp_path: Path
) -> None:
    """A lost answer makes the second attempt fail with 412; the object is then compared with what was sent."""
    proxy.plan(fault, fault)
    through.put_once(join(place, "once"), DATA)
    (tmp_path / "local").write_bytes(DATA)
    proxy.plan(fault)
    through.put_file(join(place, "file"), tmp_path / "local", overwrite=False)
    proxy.plan(fault)
    through.compare_and_swap(join(place, "swap"), None, b"first of me")
    proxy.plan("pass", fault)
    through.compare_and_swap(join(place, "swap"), b"first of me", b"second of me")
    assert through.read_bytes(join(place, "swap")) == b"second of me"
    assert through.read_bytes(join(place, "file")) == through.read_bytes(join(place, "once")) == DATA


def test_foreign_object_after_a_lost_answer_is_not_taken_for_ours(
    proxy: FaultProxy, through: Storage, place: str, tmp_path: Path
) -> None:
    uri = join(place, "once")
    through.put_once(uri, b"theirs")
    (tmp_path / "local").write_bytes(b"my own")
    for fault in ("reset_before", "reset_after"):
        proxy.plan(fault, only="PUT")
        with pytest.raises(AlreadyExistsError):
            through.put_once(uri, b"my own")
        proxy.plan(fault, only="PUT")
        with pytest.raises(FileExistsError):
            through.put_file(uri, tmp_path / "local", overwrite=False)
        proxy.plan(fault, only="PUT")
        with pytest.raises(ConflictError):
            through.compare_and_swap(uri, None, b"my own")
    assert through.read_bytes(uri) == b"theirs"


def test_refused_connection_names_the_endpoint(store: Store, place: str) -> None:
    from tests.servers.rgw import free_port

    endpoint = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RunError, match="cannot be reached") as caught:
        store.storage(endpoint_url=endpoint, max_attempts=2).read_bytes(join(place, "a"))
    for part in (endpoint, join(place, "a"), "EndpointConnectionError", "2 times"):
        assert part in str(caught.value)


def test_connection_that_nobody_accepts_is_given_up_after_its_time_out(store: Store, place: str) -> None:
    with socket.socket() as deaf, ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):  # whoever comes later gets no answer at all, not even a refusal
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(deaf.getsockname())
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(RunError, match="cannot be reached") as caught:
            store.storage(endpoint_url=endpoint, connect_timeout=0.2, max_attempts=2).read_bytes(join(place, "a"))
    assert "Timeout" in str(caught.value)


def test_waits_between_attempts_double_up_to_a_bound_and_are_drawn(
    proxy: FaultProxy, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr(storage_s3_requests, "FIRST_WAIT_SECONDS", 0.25)
    monkeypatch.setattr(storage_s3_requests, "LONGEST_WAIT_SECONDS", 2.0)
    proxy.always("slow_down")
    for _ in range(20):
        with pytest.raises(RunError, match="SlowDown, at the last of 6"):
            storage_through(proxy, max_attempts=6).read_bytes(join(place, "a"))
    drawn = np.reshape(waits, (20, 5))  # [request, wait]
    for number, bound in enumerate([0.25, 0.5, 1.0, 2.0, 2.0]):
        assert bound / 2 < drawn[:, number].max() <= bound
        assert drawn[:, number].min() < bound / 2
    assert len(set(waits)) == len(waits)


@pytest.mark.parametrize("fault", ["slow_down", "reset_before", "truncated_body"])
def test_faults_without_end_are_an_error_after_the_last_attempt(
    fault: Fault, proxy: FaultProxy, through: Storage, place: str
) -> None:
    through.put(join(place, "a"), DATA)
    proxy.always(fault)
    with pytest.raises(RunError, match=r"object store (failed|cannot be reached)") as caught:
        storage_through(proxy, max_attempts=3).read_bytes(join(place, "a"))
    assert len(proxy.requests) == 3
    assert "3 attempt(s)" in str(caught.value) or "3 times" in str(caught.value)
    assert "goes on from here" in str(caught.value)


def test_stalled_store_is_given_up_after_the_time_out(proxy: FaultProxy, through: Storage, place: str) -> None:
    through.put(join(place, "a"), DATA)
    proxy.plan("stall")
    impatient = storage_through(proxy, read_timeout=0.3)
    assert impatient.read_bytes(join(place, "a")) == DATA
    proxy.always("stall")
    with pytest.raises(RunError, match="Timeout"):
        storage_through(proxy, read_timeout=0.2, max_attempts=2).put(join(place, "a"), b"x")


def test_store_that_drips_is_bounded_as_a_whole(proxy: FaultProxy, through: Storage, place: str) -> None:
    """Each byte comes within the read time-out, and yet the answer never would."""
    through.put(join(place, "a"), DATA)
    proxy.always("drip")
    with pytest.raises(RunError, match="Timeout"):
        storage_through(proxy, call_timeout=0.5, max_attempts=2).read_bytes(join(place, "a"))


@pytest.mark.parametrize("verb", ["read_bytes", "stat", "list", "delete"])
def test_expired_credentials_are_told_at_once_and_without_a_secret(
    verb: str, store: Store, proxy: FaultProxy, through: Storage, place: str
) -> None:
    proxy.always("expired")
    with pytest.raises(UserError, match="refused the credentials") as caught:
        getattr(through, verb)(join(place, "a"))
    assert len(proxy.requests) == (2 if verb == "stat" else 1)  # an answer to HEAD tells no reason
    assert "ExpiredToken" in str(caught.value)
    _assert_no_secret(store, caught.value)
    assert place in str(caught.value)


def test_put_with_expired_credentials_is_not_tried_again(proxy: FaultProxy, through: Storage, place: str) -> None:
    proxy.always("expired")
    with pytest.raises(UserError, match="refused the credentials") as caught:
        through.put(join(place, "a"), b"x")
    assert len(proxy.requests) == 1
    assert "ExpiredToken" in str(caught.value)


def test_absent_and_taken_are_answers_and_not_tried_again(proxy: FaultProxy, through: Storage, place: str) -> None:
    through.put_once(join(place, "a"), b"x")
    proxy.calm()
    assert not through.exists(join(place, "b"))
    assert len(proxy.requests) == 1
    with pytest.raises(ConflictError):
        through.compare_and_swap(join(place, "a"), None, b"y")
    assert len(proxy.requests) == 2


def _assert_no_secret(store: Store, error: BaseException) -> None:
    shown = f"{error!r} {error} {pickle.dumps(error)!r} {error.__cause__!r}"
    assert store.environment["AWS_SECRET_ACCESS_KEY"] not in shown
    assert store.environment["AWS_ACCESS_KEY_ID"] not in shown
