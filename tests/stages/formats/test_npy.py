import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.formats.npy import SubsetFile, read_subset, subset_bytes
from stages.kernels.uid import UID_DTYPE

UIDS = sorted((int(a), int(b)) for a, b in np.random.default_rng(0).integers(0, 2**64, (50, 2), np.uint64))
RECORDS = np.array(UIDS, UID_DTYPE)


def saved(path: Path, array: object, **options: object) -> str:
    np.save(path, array, **options)  # type: ignore[arg-type]
    return str(path)


def test_read_numpys_own_file_gives_halves(tmp_path: Path) -> None:
    hi, lo = read_subset(Storage(), saved(tmp_path / "s.npy", RECORDS))
    assert list(zip(hi.tolist(), lo.tolist(), strict=True)) == UIDS
    assert hi.dtype == lo.dtype == np.uint64


def test_read_headerless_records_gives_halves(tmp_path: Path) -> None:
    (tmp_path / "s.bin").write_bytes(RECORDS.tobytes())
    hi, lo = read_subset(Storage(), str(tmp_path / "s.bin"))
    assert list(zip(hi.tolist(), lo.tolist(), strict=True)) == UIDS


def test_read_empty_subset_gives_nothing(tmp_path: Path) -> None:
    hi, lo = read_subset(Storage(), saved(tmp_path / "s.npy", RECORDS[:0]))
    assert len(hi) == len(lo) == 0


@pytest.mark.parametrize("size", [1, 7, 50, 51])
def test_slices_of_any_size_are_all_uids(tmp_path: Path, size: int) -> None:
    file = SubsetFile.open(Storage(), saved(tmp_path / "s.npy", RECORDS))
    pieces = list(file.slices(size))
    assert max(len(hi) for hi, _ in pieces) <= size
    assert np.concatenate([hi for hi, _ in pieces]).tolist() == RECORDS["f0"].tolist()


@pytest.mark.parametrize("size", [1, 3, 10, 100])
def test_slices_unsorted_file_is_refused_wherever_it_is_cut(tmp_path: Path, size: int) -> None:
    shuffled = RECORDS.copy()
    shuffled[[20, 21]] = shuffled[[21, 20]]
    file = SubsetFile.open(Storage(), saved(tmp_path / "s.npy", shuffled))
    with pytest.raises(UserError, match="not sorted"):
        list(file.slices(size))


def test_read_uid_that_stands_twice_is_accepted(tmp_path: Path) -> None:
    twice = np.sort(np.concatenate([RECORDS, RECORDS[:3]]))
    assert len(read_subset(Storage(), saved(tmp_path / "s.npy", twice))[0]) == 53


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 2), np.uint64),
        np.zeros(5, np.uint64),
        np.zeros(5, "i8,i8"),
        np.zeros(5, ">u8,>u8"),
        np.zeros((2, 2), UID_DTYPE),
        np.array(["0" * 32]),
    ],
)
def test_open_array_of_another_kind_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(UserError, match="not a subset file"):
        SubsetFile.open(Storage(), saved(tmp_path / "s.npy", array))


def test_open_pickled_array_is_refused_without_unpickling(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a subset file"):
        read_subset(Storage(), saved(tmp_path / "s.npy", np.array([{}], object), allow_pickle=True))
    (tmp_path / "p").write_bytes(pickle.dumps(list(range(16)), protocol=4))
    with pytest.raises(UserError, match="a pickle"):
        read_subset(Storage(), str(tmp_path / "p"))


def test_open_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", RECORDS)
    with pytest.raises(UserError, match="npz"):
        read_subset(Storage(), str(tmp_path / "s.npz"))


@pytest.mark.parametrize("cut", [1, 15, 16, 700, 830, 920])
def test_open_cut_file_is_refused(tmp_path: Path, cut: int) -> None:
    data = subset_bytes(RECORDS["f0"].copy(), RECORDS["f1"].copy())
    (tmp_path / "s.npy").write_bytes(data[: len(data) - cut])
    with pytest.raises(UserError, match="not a subset file"):
        read_subset(Storage(), str(tmp_path / "s.npy"))


def test_open_records_of_odd_length_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s.bin").write_bytes(bytes(33))
    with pytest.raises(UserError, match="33 bytes"):
        read_subset(Storage(), str(tmp_path / "s.bin"))


def test_subset_bytes_equal_what_numpy_saves() -> None:
    sink = io.BytesIO()
    np.save(sink, RECORDS)
    assert subset_bytes(RECORDS["f0"].copy(), RECORDS["f1"].copy()) == sink.getvalue()


def test_subset_bytes_of_unsorted_uids_is_refused() -> None:
    with pytest.raises(ValueError, match="sorted"):
        subset_bytes(np.array([2, 1], np.uint64), np.array([0, 0], np.uint64))
