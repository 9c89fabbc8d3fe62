import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.formats.uid_set import UidSet, read_uid_set
from stages.kernels.uid import to_records

uids = st.lists(st.tuples(st.integers(0, 3).map(lambda n: n << 62), st.integers(0, 5)), max_size=30)


def halves(pairs: list) -> tuple[np.ndarray, np.ndarray]:
    return np.array([hi for hi, _ in pairs], np.uint64), np.array([lo for _, lo in pairs], np.uint64)


@settings(deadline=None)
@given(uids, uids)
def test_set_contains_what_was_put_in(inside: list, asked: list) -> None:
    chosen = UidSet.of(*halves(inside))
    assert list(zip(chosen.hi.tolist(), chosen.lo.tolist(), strict=True)) == sorted(set(inside))
    assert len(chosen) == len(set(inside))
    assert chosen.contains(*halves(asked)).tolist() == [uid in set(inside) for uid in asked]


def test_subset_files_are_joined(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", to_records(*halves([(1, 2), (1, 3)])))
    np.save(tmp_path / "b.npy", to_records(*halves([(0, 9), (1, 2)])))
    found = read_uid_set(Storage(), [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")])
    assert found.hi.tolist() == [0, 1, 1]
    assert found.lo.tolist() == [9, 2, 3]
    assert len(read_uid_set(Storage(), [])) == 0


@pytest.mark.parametrize("array", [np.zeros(3, np.uint64), np.zeros((2, 2), "u8,u8"), np.array([{}])])
def test_file_of_another_kind_is_refused_by_name(tmp_path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    (tmp_path / "x.npy").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"x\.npy"):
        read_uid_set(Storage(), [str(tmp_path / "x.npy")])


def test_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"uid\n1234\n")
    with pytest.raises(UserError, match="not a subset file"):
        read_uid_set(Storage(), [str(tmp_path / "x.npy")])


def npz() -> bytes:
    sink = io.BytesIO()
    np.savez(sink, to_records(*halves([(1, 2)])))
    return sink.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x03\x04" + bytes(30), npz(), b"\x93NUM", b"\x93NUMPY\x01\x00", b"\x80\x04]q\x00."],
    ids=["empty", "broken-zip", "npz", "half-magic", "no-header", "pickle"],
)
def test_malformed_file_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(UserError, match="not a subset file") as raised:
        read_uid_set(Storage(), [str(tmp_path / "x.npy")])
    assert "x.npy" in str(raised.value)


@pytest.mark.parametrize(("place", "value"), [(8, 1), (10, 32), (60, 0), (80, 40), (100, 123)])
def test_damaged_header_is_refused(tmp_path: Path, place: int, value: int) -> None:
    np.save(tmp_path / "x.npy", to_records(*halves([(1, 1)])))
    data = bytearray((tmp_path / "x.npy").read_bytes())
    data[place] = value
    (tmp_path / "x.npy").write_bytes(bytes(data))
    with pytest.raises(UserError, match="not a subset file"):
        read_uid_set(Storage(), [str(tmp_path / "x.npy")])


@pytest.mark.parametrize("cut", [1, 15, 16, 40, 120])
def test_cut_file_is_refused(tmp_path: Path, cut: int) -> None:
    np.save(tmp_path / "x.npy", to_records(*halves([(n, n) for n in range(4)])))
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(data[:-cut])
    with pytest.raises(UserError, match="not a subset file"):
        read_uid_set(Storage(), [str(tmp_path / "x.npy")])


def test_unsorted_file_is_a_set_all_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", to_records(*halves([(2, 1), (1, 9), (2, 0), (1, 9)])))
    found = read_uid_set(Storage(), [str(tmp_path / "x.npy")])
    assert list(zip(found.hi.tolist(), found.lo.tolist(), strict=True)) == [(1, 9), (2, 0), (2, 1)]
