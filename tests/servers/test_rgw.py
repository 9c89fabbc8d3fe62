"""The real S3 server of the tests: told aloud where it is missing, and gone without a trace when it is stopped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.rgw import BINARIES, Rgw, missing_binaries

ROOT = Path(__file__).parents[2]
NEEDS_IT = "tests/object_store/test_contract.py::test_many_puts_of_one_name_keep_the_first"


def test_missing_server_is_told_aloud_with_the_packages_to_install(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", NEEDS_IT]
    environment = {**os.environ, "PATH": str(tmp_path)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 TESTS ON A REAL S3 SERVER WERE SKIPPED" in ended.stdout
    assert "apt-get install radosgw ceph-mon ceph-osd ceph-common" in ended.stdout


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_binaries() == list(BINARIES)
    (tmp_path / "ceph-osd").write_text("#!/bin/sh")
    (tmp_path / "ceph-osd").chmod(0o755)
    assert missing_binaries() == [name for name in BINARIES if name != "ceph-osd"]


def test_stop_ends_the_processes_that_were_started_and_no_others(tmp_path: Path) -> None:
    with (
        subprocess.Popen(["sleep", "60"]) as ours,
        subprocess.Popen(["sleep", "60"]) as theirs,
    ):
        server = Rgw(tmp_path, processes=[ours])
        server.stop()
        assert ours.poll() is not None
        assert theirs.poll() is None
        assert server.processes == []
        theirs.kill()
