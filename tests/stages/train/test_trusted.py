"""Which listed samples the pool has: all accounted for, and a list of another pool refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipeline.artifact import Artifact
from pipeline.config_base import Config
from pipeline.errors import UserError
from pipeline.progress import Reporter
from pipeline.stage import Size
from pipeline.storage import Storage
from stages.formats.uid_set import UidSet
from stages.kernels.uid import bucket_of
from stages.train.trusted import NOT_USABLE, TrustedStage, by_bucket
from tests.artifacts import context, listed
from tests.stages.train.tiny_pool import make_pool, uid_of
from tests.stages.train.trusted_subset import trusted_list, trusted_subset


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_pool(tmp_path_factory.mktemp("pool"), [11, 7, 13])[0]


def test_subset_holds_the_listed_samples_sorted(pool: Artifact, tmp_path: Path) -> None:
    numbers = [30, 4, 7, 0, 19]
    made = trusted_subset(tmp_path, pool, numbers)
    assert np.load(made.uri("sample_ids.npy")).tolist() == sorted(uid_of(number) for number in numbers)
    assert made.summary == {"listed": 5, "kept": 5}


def test_subset_of_a_list_with_repetitions_and_in_any_order_has_each_once(pool: Artifact, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([uid_of(number) for number in (9, 2, 9, 2, 5)], dtype="u8,u8"))
    stage = TrustedStage(Config(), listed=str(tmp_path / "t.npy"))
    made = context(tmp_path / "made", inputs={"pool": pool}, external={"listed": listed(tmp_path / "t.npy")})
    result = stage.run(made)
    assert result.counts is not None
    assert (result.counts.seen, result.counts.out) == (3, 3)


def test_samples_outside_of_the_pool_are_counted_and_told(pool: Artifact, tmp_path: Path) -> None:
    path = trusted_list(tmp_path / "t.npy", (3, 7, 400, 401, 402))
    shown = io.StringIO()
    made = context(tmp_path / "made", inputs={"pool": pool}, external={"listed": listed(path)})
    made = type(made)(**{**made.__dict__, "reporter": Reporter(Console(file=shown, width=200))})
    result = TrustedStage(Config(), listed=str(path)).run(made)
    assert result.counts is not None
    assert (result.counts.seen, result.counts.out, result.counts.dropped) == (5, 2, {NOT_USABLE: 3})
    result.counts.check("subset_trusted")
    assert "3 of 5 uids" in shown.getvalue()


def test_list_of_another_pool_is_refused_by_name(pool: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no trusted sample is in the pool") as refused:
        trusted_subset(tmp_path, pool, range(1000, 1100))
    for part in ("trusted.npy", "31 usable samples", "100 uids", "reference.trusted"):
        assert part in str(refused.value)


@pytest.mark.parametrize("bits", [0, 1, 4])
def test_listed_uids_are_cut_at_the_buckets_once_each(bits: int) -> None:
    hi, lo = np.array([uid_of(number) for number in range(50)], np.uint64).T
    uids = UidSet.of(hi, lo)
    pieces = by_bucket(uids, bits)
    assert np.concatenate([piece.hi for piece in pieces]).tolist() == uids.hi.tolist()
    assert np.concatenate([piece.lo for piece in pieces]).tolist() == uids.lo.tolist()
    for piece in pieces:
        assert set(bucket_of(piece.hi, bits).tolist()) == {piece.bucket}


def test_no_uids_are_no_pieces() -> None:
    assert by_bucket(UidSet(np.empty(0, np.uint64), np.empty(0, np.uint64)), 3) == []


@pytest.mark.parametrize(
    "content", [b"", b"uid\n0123\n", b"\x93NUMPY\x01\x00"], ids=["empty file", "text", "cut header"]
)
def test_list_of_another_format_is_refused_before_work(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trusted.npy"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        TrustedStage(Config(), listed=str(path)).preflight({"listed": listed(path)}, Storage())
    assert "trusted.npy" in str(caught.value)


@pytest.mark.parametrize("array", [np.arange(5), np.zeros(0, np.dtype("u8,u8"))], ids=["other numbers", "no uid"])
def test_list_that_is_no_list_of_uids_is_refused_before_work(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "trusted.npy", array)
    with pytest.raises(UserError):
        TrustedStage(Config(), listed="t").preflight({"listed": listed(tmp_path / "trusted.npy")}, Storage())


def test_external_list_is_part_of_the_identity_and_names_its_key() -> None:
    stage = TrustedStage(Config(), listed="t.npy")
    assert stage.external()["listed"].identity
    assert "reference.trusted" in stage.external()["listed"].missing
    assert "listed" in stage.plan({"pool": Size(31, 0)}, {}).note
