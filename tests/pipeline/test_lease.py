"""One run at a time on a local output, by flock."""

import multiprocessing
import threading

import pytest

from pipeline import lease
from pipeline.errors import LockedError, UserError
from pipeline.lease import held, is_abandoned
from pipeline.lease_object import Pace
from pipeline.progress import Reporter
from pipeline.storage import Storage


def _hold(folder, taken, release):
    with held(folder, Storage(), Reporter()):
        taken.set()
        release.wait(30)


def test_folder_held_by_another_process_is_locked_and_free_after_its_death(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    taken, release = spawn.Event(), spawn.Event()
    holder = spawn.Process(target=_hold, args=(str(tmp_path), taken, release))
    holder.start()
    try:
        assert taken.wait(30)
        with pytest.raises(LockedError) as error, held(str(tmp_path), Storage(), Reporter()):
            pass
        assert error.value.exit_code == 3
        assert "--wait" in str(error.value)
        assert not is_abandoned(str(tmp_path), Storage())
    finally:
        holder.kill()  # a killed run leaves its lock file, which holds nobody up
        holder.join()
    assert (tmp_path / ".run.lock").exists()
    assert is_abandoned(str(tmp_path), Storage())
    with held(str(tmp_path), Storage(), Reporter()):
        pass


def test_folder_that_nobody_ever_held_is_not_called_abandoned(tmp_path, monkeypatch):
    assert not is_abandoned(str(tmp_path / "nothing"), Storage())
    assert not list(tmp_path.iterdir())
    with held(str(tmp_path), Storage(), Reporter()):
        pass
    monkeypatch.setenv(lease.SWITCH, "off")
    assert not is_abandoned(str(tmp_path), Storage())


def test_folder_is_given_back_when_a_run_fails(tmp_path):
    with pytest.raises(RuntimeError), held(str(tmp_path), Storage(), Reporter()):
        raise RuntimeError("a stage failed")
    with held(str(tmp_path), Storage(), Reporter()):
        pass


def test_folder_that_is_waited_for_is_held_after_the_other_run_ended(tmp_path):
    events = []

    def waiter():
        with held(str(tmp_path), Storage(), Reporter(), wait=True, pace=Pace(poll=0.05)):
            events.append("second")

    with held(str(tmp_path), Storage(), Reporter()):
        thread = threading.Thread(target=waiter)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        events.append("first")
    thread.join(10)
    assert events == ["first", "second"]


def test_folder_with_the_lease_switched_off_lets_two_in(tmp_path, monkeypatch):
    monkeypatch.setenv(lease.SWITCH, "off")
    with held(str(tmp_path), Storage(), Reporter()), held(str(tmp_path), Storage(), Reporter()):
        pass


def test_output_that_is_a_file_is_refused_as_input(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for output in ("file", "file/below"):
        with pytest.raises(UserError, match="not a folder"), held(str(tmp_path / output), Storage(), Reporter()):
            pass
