"""Errors of the disk as a user meets them."""

import errno
import os

import pytest

from pipeline.disk_errors import disk_error, disk_errors_named
from pipeline.errors import RunError


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.ENOSPC, "no space left on device"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.ENOTDIR, "a part of the path is a file"),
    ],
)
def test_error_of_the_disk_names_path_and_next_step(number, what):
    with pytest.raises(RunError, match=what) as told, disk_errors_named("/some/where"):
        raise OSError(number, os.strerror(number))
    assert "/some/where" in str(told.value)
    assert "the same command goes on" in str(told.value)
    assert told.value.exit_code == 1


def test_error_without_a_place_takes_the_one_it_carries():
    assert "/its/own" in str(disk_error(OSError(errno.ENOSPC, "full", "/its/own")))


@pytest.mark.parametrize("error", [FileExistsError(errno.EEXIST, "x"), FileNotFoundError(errno.ENOENT, "x")])
def test_other_errors_pass_unchanged(error):
    assert disk_error(error) is None
    with pytest.raises(type(error)), disk_errors_named("x"):
        raise error
