"""Files that reach the disk while they are written."""

import errno
import os
from pathlib import Path

import pytest

from pipeline import write_behind as module
from pipeline.write_behind import write_behind


def test_file_holds_what_was_written_and_was_synced_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYNC_BYTES", 1000)
    synced: list[int] = []
    original = os.fdatasync

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        original(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)
    pieces = [bytes([number]) * 700 for number in range(20)]
    with write_behind(tmp_path / "file") as file:
        for piece in pieces:
            file.write(piece)
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)
    assert synced
    assert synced == sorted(synced)
    assert all(1000 <= size <= 14_000 for size in synced)


def test_small_file_is_left_to_whoever_publishes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: pytest.fail("was synced"))
    with write_behind(tmp_path / "file") as file:
        file.write(b"small")
    assert (tmp_path / "file").read_bytes() == b"small"


def test_disk_that_fails_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYNC_BYTES", 10)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(OSError, match="No space left"), write_behind(tmp_path / "file") as file:
        file.write(b"more than ten bytes")
