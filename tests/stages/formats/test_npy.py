import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=40), st.integers(1, 50))
def test_written_uids_are_read_back_by_numpy_and_by_us(
    tmp_path_factory: pytest.TempPathFactory, uids: list[tuple[int, int]], size: int
) -> None:
    records = np.array(sorted(uids), UID_DTYPE)
    path = tmp_path_factory.mktemp("npy") / "s.npy"
    path.write_bytes(subset_bytes(records["f0"].copy(), records["f1"].copy()))
    np.testing.assert_array_equal(np.load(path), records)
    pieces = list(SubsetFile.open(Storage(), str(path)).slices(size))
    assert [(int(hi), int(lo)) for his, los in pieces for hi, lo in zip(his, los, strict=True)] == sorted(uids)


def test_subset_bytes_golden_digest() -> None:
    data = subset_bytes(np.array([1, 1, 2**64 - 1], np.uint64), np.array([0, 7, 5], np.uint64))
    header = b"\x93NUMPY\x01\x00v\x00{'descr': [('f0', '<u8'), ('f1', '<u8')], 'fortran_order': False, 'shape': (3,), }"
    assert data == header.ljust(127) + b"\n" + struct.pack("<6Q", 1, 0, 1, 7, 2**64 - 1, 5)


def test_records_are_found_as_datacomp_finds_them(tmp_path: Path) -> None:
    """Its resharder: `divmod(int(uid, 16), 2**64)`, binary search on both sides in the mapped file."""
    uids = [f"{int(a):016x}{int(b):016x}" for a, b in UIDS]
    path = tmp_path / "s.npy"
    path.write_bytes(subset_bytes(RECORDS["f0"].copy(), RECORDS["f1"].copy()))
    mapped = np.load(path, mmap_mode="r")
    for place, uid in enumerate(uids):
        key = np.array([divmod(int(uid, 16), 2**64)], UID_DTYPE)[0]
        assert (np.searchsorted(mapped, key, "left"), np.searchsorted(mapped, key, "right")) == (place, place + 1)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_open_any_version_of_the_format_is_read(tmp_path: Path, version: tuple[int, int]) -> None:
    with (tmp_path / "s.npy").open("wb") as sink:
        np.lib.format.write_array(sink, RECORDS, version=version)
    assert read_subset(Storage(), str(tmp_path / "s.npy"))[1].tolist() == RECORDS["f1"].tolist()


HEADER = "{'descr': [('f0', '<u8'), ('f1', '<u8')], 'fortran_order': False, 'shape': (2,), }"


@pytest.mark.parametrize(
    "header",
    [
        HEADER.replace("(2,)", "(3,)"),
        HEADER.replace("(2,)", "(1,)"),
        HEADER.replace("(2,)", "(-2,)"),
        HEADER.replace("(2,)", "2"),
        HEADER.replace("(2,)", "()"),
        HEADER.replace("(2,)", "(2.0,)"),
        HEADER.replace("'shape'", "'shapes'"),
        HEADER.replace("<u8", "<u9"),
        HEADER.replace("<u8", "<f8"),
        HEADER.replace("f1", "lo"),
        HEADER.replace("False", "None"),
        HEADER[:-3],
        "[1, 2]",
        "__import__('os').abort()",
        "\0" * 40,
        "",
    ],
)
def test_open_malformed_header_is_refused(tmp_path: Path, header: str) -> None:
    text = header.encode("latin-1").ljust(117) + b"\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(32)
    (tmp_path / "s.npy").write_bytes(data)
    with pytest.raises(UserError, match="not a subset file"):
        SubsetFile.open(Storage(), str(tmp_path / "s.npy"))


def test_open_well_formed_header_of_the_same_making_is_read(tmp_path: Path) -> None:
    """So that the cases above are refused for what they change."""
    text = HEADER.encode().ljust(117) + b"\n"
    (tmp_path / "s.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(32))
    assert SubsetFile.open(Storage(), str(tmp_path / "s.npy")).num_records == 2


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 127), st.integers(0, 255))
def test_open_damaged_header_is_refused_or_reads_what_numpy_reads(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    data = bytearray(subset_bytes(RECORDS["f0"].copy(), RECORDS["f1"].copy()))
    data[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    path.write_bytes(bytes(data))
    try:
        hi, lo = read_subset(Storage(), str(path))
    except UserError:
        return
    if not data.startswith(b"\x93NUMPY"):
        assert len(hi) == len(data) // 16  # headerless records
        return
    np.testing.assert_array_equal(np.load(path), np.array(list(zip(hi, lo, strict=True)), UID_DTYPE))


@pytest.mark.parametrize("length", range(0, 140, 3))
def test_open_file_cut_in_its_header_is_never_a_whole_subset(tmp_path: Path, length: int) -> None:
    data = subset_bytes(RECORDS["f0"].copy(), RECORDS["f1"].copy())
    (tmp_path / "s.npy").write_bytes(data[:length])
    with pytest.raises(UserError, match="not a subset file"):
        read_subset(Storage(), str(tmp_path / "s.npy"))


def test_open_absent_file_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises((FileNotFoundError, UserError)):
        SubsetFile.open(Storage(), str(tmp_path / "none.npy"))


def test_slices_read_no_more_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subset of any size is read in bounded memory."""
    file = SubsetFile.open(Storage(), saved(tmp_path / "s.npy", RECORDS))
    lengths: list[int] = []
    original = Storage.read_range

    def recording(self: Storage, uri: str, offset: int, length: int) -> bytes:
        lengths.append(length)
        return original(self, uri, offset, length)

    monkeypatch.setattr(Storage, "read_range", recording)
    assert sum(len(hi) for hi, _ in file.slices(8)) == 50
    assert lengths == [128] * 6 + [32]
