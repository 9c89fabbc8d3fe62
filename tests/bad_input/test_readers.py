"""Any bytes give samples, faults, or an error made for people; never another exception, never memory without bound."""

# ruff: noqa: PT017  # errors are allowed here, and then are looked at

import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import GradsieveError, UserError
from pipeline.storage import Storage
from stages.formats.datacomp import SampleError, read_metadata, sample_parts
from stages.formats.image import ImageError, decode_image, probe_image, verify_image
from stages.formats.npy import read_subset
from stages.formats.tar import Member, Sample, ShardReader
from stages.formats.uid_set import read_uid_set
from stages.models.weights import load_state, save_state
from stages.select_exclude import read_excluded
from stages.selectors.table_read import Columns, check_header, check_values, pieces_of
from tests.bad_input.images import animation, encoded
from tests.bad_input.uid_files import saved, that_says
from tests.bad_input.weights import checkpoint, state
from tests.stages.pool.pools import jpeg, pair, shard_bytes, uid_of

_FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_FEWER = settings(_FEW, max_examples=60)
_MIB = 1 << 20

_SHARD = shard_bytes([pair(1), pair(2)])
_RECORDS = saved(np.sort(np.array([(3, 4), (1, 2), (9, 9)], "u8,u8")))


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"uid": [uid_of(n) for n in range(9)], "score": np.arange(9) / 8}), sink)
    return sink.getvalue()


_TABLE = _parquet()


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """A whole file with bytes overwritten, a piece removed, doubled or put in, or cut."""
    places = st.integers(0, len(whole))
    patches = st.lists(st.tuples(places, st.binary(min_size=1, max_size=9)), max_size=4)

    def apply(patches: list[tuple[int, bytes]], first: int, second: int, times: int, cut: int) -> bytes:
        data = bytearray(whole)
        for place, patch in patches:
            data[place : place + len(patch)] = patch
        first, second = sorted((first, second))
        data[first:second] = data[first:second] * times
        return bytes(data[:cut] if cut else data)

    cuts = st.one_of(st.just(0), places)
    return st.builds(apply, patches, places, places, st.sampled_from([1, 1, 1, 0, 2]), cuts)


def junk(*wholes: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes, damaged files, and files that begin well."""
    beginnings = st.builds(
        lambda whole, cut, rest: whole[:cut] + rest,
        st.sampled_from(wholes),
        st.integers(0, 600),
        st.binary(max_size=600),
    )
    return st.one_of(st.binary(max_size=2000), beginnings, *(damaged(whole) for whole in wholes))


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that Python and NumPy held at most meanwhile."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@_FEW
@given(junk(_SHARD))
def test_tar_of_any_bytes_gives_samples_in_order_and_faults(data: bytes) -> None:
    found: list[Sample] = []
    assert peak_of(lambda: found.extend(ShardReader(io.BytesIO(data)))) < 4 * len(data) + 5 * _MIB
    end = 0
    for sample in found:
        assert sample.offset >= end
        end = sample.offset + sample.length
        assert sample.members or sample.fault
        for member in sample.members:
            assert data[member.offset : member.offset + member.size] == member.data
            assert sample.offset < member.offset <= end
    assert end <= len(data)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(categories=None), max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_OBJECTS = st.fixed_dictionaries({}, optional={"uid": _VALUES, "caption": _VALUES, "other": _VALUES})


@_FEW
@given(
    fields=st.one_of(st.none(), junk(pair(1).members()[1][1]), _OBJECTS.map(lambda body: json.dumps(body).encode())),
    caption=st.one_of(st.none(), st.binary(max_size=40)),
)
def test_fields_of_any_bytes_give_parts_or_a_reason(fields: bytes | None, caption: bytes | None) -> None:
    parts = {"jpg": jpeg(), "json": fields, "txt": caption}
    members = [Member(f"k.{ext}", ext, 0, len(data), data) for ext, data in parts.items() if data is not None]
    try:
        found = sample_parts(Sample("k", 0, 512, tuple(members)))
    except SampleError as error:
        assert error.detail
        assert error.reason in {"bad_json", "no_uid", "bad_uid", "no_caption", "bad_caption"}
    else:
        assert len(found.uid) == 32
        assert 0 <= int(found.uid, 16) < 1 << 128
        found.caption.encode()


@_FEWER
@given(
    junk(
        jpeg(),
        encoded("P", "PNG"),
        encoded("I;16", "PNG"),
        animation("WEBP"),
        animation("GIF"),
        encoded("RGB", "TIFF"),
        encoded("RGB", "BMP"),
    )
)
def test_image_of_any_bytes_gives_pixels_or_an_image_error(data: bytes) -> None:
    try:
        info = probe_image(data)
        verify_image(data)
    except ImageError as error:
        assert str(error)
        return
    assert info.width * info.height > 0
    assert decode_image(data, 8).shape == (3, 8, 8)  # what indexing lets through, training can read


@_FEW
@given(data=junk(_RECORDS, that_says(1 << 33), that_says(-5), that_says(1 << 62)))
def test_npy_of_any_bytes_gives_uids_or_a_user_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "ids.npy"
    path.write_bytes(data)

    def read() -> None:
        ascending = read_subset(Storage(), str(path))
        assert len(read_uid_set(Storage(), [str(path)])) <= len(ascending[0])

    def try_to() -> None:
        try:
            read()
        except GradsieveError as error:
            assert str(path) in str(error)
            assert error.parts["next"]

    assert peak_of(try_to) < 4 * _MIB


@pytest.mark.parametrize("num_records", [1 << 20, 1 << 33, 1 << 40, (1 << 59) - 1, 1 << 62, 1 << 70, -1])
def test_npy_header_is_believed_only_as_far_as_the_bytes_go(tmp_path: Path, num_records: int) -> None:
    (tmp_path / "ids.npy").write_bytes(that_says(num_records))

    def read() -> None:
        with pytest.raises(UserError, match=r"ids\.npy"):
            read_uid_set(Storage(), [str(tmp_path / "ids.npy")])

    assert peak_of(read) < 4 * _MIB


@_FEW
@given(data=junk(_TABLE))
def test_parquet_of_any_bytes_gives_rows_or_a_user_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(data)

    def as_table() -> None:
        check_header(Storage(), str(path), Columns(("uid",), "score", "mine"))
        for piece in pieces_of(Storage(), [str(path)]):
            check_values(piece, storage=Storage(), columns=Columns(("uid",), "score", "mine"))

    for read in (as_table, lambda: read_metadata(Storage(), str(path)), lambda: read_excluded(Storage(), [str(path)])):
        try:
            read()
        except UserError as error:
            assert str(path) in str(error)


@_FEWER
@given(data=junk(save_state(state()), checkpoint({"a": state()["logit_scale"]}), checkpoint({}, zipped=False)))
def test_weights_of_any_bytes_give_tensors_or_a_user_error(data: bytes) -> None:
    try:
        found = load_state(data, "clip.pt")
    except UserError as error:
        assert "clip.pt" in str(error)
    else:
        assert found


@_FEW
@given(
    data=st.one_of(
        st.binary(max_size=200), st.text("0123456789abcdefABCDEF \r\n\t\ufeffx", max_size=99).map(str.encode)
    )
)
def test_exclusion_text_of_any_bytes_gives_uids_or_names_the_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "ids.txt").write_bytes(data)
    try:
        found = read_excluded(Storage(), [str(tmp_path / "ids.txt")])
    except UserError as error:
        assert "ids.txt, line " in str(error)
    else:
        assert len(found) <= data.count(b"\n") + 1
