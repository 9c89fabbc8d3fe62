"""What a node is asked before long work: versions, inputs, and whether the run's folders are shared."""

import os
import platform
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.node_checks import Answer, Wanted, answer, check_nodes, differing
from pipeline.errors import UserError
from pipeline.run_record import versions
from pipeline.storage import Storage
from tests.crash.nodes import Nodes, raylet_of


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    """An input and an output as a driver prepares them."""
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/0.tar").write_bytes(b"tar")
    made = Wanted(Storage(), (str(tmp_path / "pool/0.tar"),), (str(tmp_path / "out"),), "abc")
    made.storage.put(made.probe(str(tmp_path / "out"), "driver"), b"abc")
    return made


def test_node_that_reads_and_writes_all_has_no_fault_and_leaves_its_probe(wanted: Wanted) -> None:
    found = answer(wanted, "node a", "a1")
    assert found == Answer("node a", versions(), ())
    assert wanted.storage.read_bytes(wanted.probe(wanted.writable[0], "a1")) == b"abc"


def test_folder_in_which_the_drivers_probe_is_not_seen_is_not_shared(wanted: Wanted, tmp_path: Path) -> None:
    elsewhere = replace(wanted, writable=(str(tmp_path / "another disk"),))
    (fault,) = answer(elsewhere, "node a", "a1").faults
    assert "does not see what the driver wrote into" in fault
    assert "another disk" in fault


def test_probe_with_other_bytes_is_a_fault(wanted: Wanted) -> None:
    wanted.storage.put(wanted.probe(wanted.writable[0], "driver"), b"xyz")
    (fault,) = answer(wanted, "node a", "a1").faults
    assert "reads other bytes" in fault


def test_input_that_is_not_there_is_named(wanted: Wanted) -> None:
    (fault,) = answer(replace(wanted, readable=("/nowhere/0.tar",)), "node a", "a1").faults
    assert fault == "cannot read /nowhere/0.tar: it is not there"


def test_empty_input_can_be_read(wanted: Wanted, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert answer(replace(wanted, readable=(str(tmp_path / "empty"),)), "node a", "a1").faults == ()


def test_store_without_credentials_is_a_fault_and_no_traceback(wanted: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    faults = answer(replace(wanted, readable=("s3://bucket/0.tar",)), "node a", "a1").faults
    assert len(faults) == 1
    assert faults[0].startswith("cannot read s3://bucket/0.tar: ")


def test_versions_that_differ_are_named_and_a_patch_of_python_is_no_difference() -> None:
    here = versions()
    minor, patch = here["python"].rsplit(".", 1)
    there = {**here, "python": f"{minor}.{int(patch) + 1}", "ray": "2.59.0"}
    assert differing(here, Answer("node a", there, ()), ["python", "ray", "numpy"]) == [
        f"node a: ray 2.59.0, the driver has {here['ray']}"
    ]
    other = {**here, "python": "3.12.1"}
    assert differing(here, Answer("node a", other, ()), ["python"]) == [
        f"node a: python 3.12.1, the driver has {platform.python_version()}"
    ]


@pytest.mark.slow
@pytest.mark.ray
class TestOnACluster:
    def test_every_node_is_asked_and_no_probe_is_left(self, cluster: Nodes, wanted: Wanted) -> None:
        out = Path(wanted.writable[0])
        before = sorted(out.iterdir())
        assert check_nodes(Storage(), wanted.readable, wanted.writable) == []
        assert sorted(out.iterdir()) == before

    def test_fault_is_told_once_for_each_node(self, cluster: Nodes, wanted: Wanted) -> None:
        with pytest.raises(UserError, match=r"(?s)the cluster cannot run this: 3 fault.*cannot read /nowhere/x"):
            check_nodes(Storage(), ["/nowhere/x"], wanted.writable)

    def test_node_that_does_not_answer_is_named(self, cluster: Nodes, wanted: Wanted) -> None:
        stopped = cluster.workers[1]
        os.kill(raylet_of(stopped), signal.SIGSTOP)
        try:
            with pytest.raises(UserError, match=rf"(?s)1 fault.*node {stopped.node_id[:8]}.*no answer within 3 s"):
                check_nodes(Storage(), wanted.readable, wanted.writable, timeout=3.0)
        finally:
            os.kill(raylet_of(stopped), signal.SIGCONT)
