import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.artifact import Artifact
from pipeline.errors import RunError, UserError
from pipeline.storage import Storage
from stages.kernels.uid import to_records
from stages.models.build import build_tokenizer
from stages.train.loader import Loader, LoaderSpec, LocalBatch
from tests.artifacts import with_file
from tests.stages.models.tiny import TINY
from tests.stages.train.tiny_pool import caption_of, colour_of, make_pool, uid_of

COUNTS = [7, 0, 12, 5, 9, 1]
TOTAL = sum(COUNTS)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, str]:
    return make_pool(tmp_path_factory.mktemp("pool"), COUNTS, parts=3, group_rows=4)


def spec_of(pool: tuple[Artifact, str], **changes: object) -> LoaderSpec:
    arguments: dict = {"seed": 3, "lanes": 4, "window": 5, "batch_size": 8, **changes}
    return LoaderSpec(pool=pool[0], pool_path=pool[1], model=TINY, **arguments)


def numbers_of(batch: LocalBatch) -> list[int]:
    """Numbers of a batch's samples; checks that uid halves belong together."""
    for hi, lo in zip(batch.uid_hi.tolist(), batch.uid_lo.tolist(), strict=True):
        assert uid_of(lo) == (hi, lo)
    return [int(lo) for lo in batch.uid_lo]


def global_batches(spec: LoaderSpec, world: int, epoch: int, first: int = 0) -> list[list[int]]:
    """For each batch the numbers in it, lane by lane, whoever loaded them."""
    by_rank = [list(Loader(spec, rank, world).iterate(epoch, first)) for rank in range(world)]
    width = spec.batch_size // spec.lanes
    result = []
    for batches in zip(*by_rank, strict=True):
        lanes: dict[int, list[int]] = {}
        for rank, batch in enumerate(batches):
            numbers = numbers_of(batch)
            for place, lane in enumerate(range(rank, spec.lanes, world)):
                lanes[lane] = numbers[place * width : (place + 1) * width]
        result.append([number for lane in sorted(lanes) for number in lanes[lane]])
    return result


def test_batches_hold_the_samples_that_their_uids_name(pool: tuple[Artifact, str]) -> None:
    tokenizer = build_tokenizer(TINY)
    batches = list(Loader(spec_of(pool), 0, 1).iterate(0))
    assert [batch.index for batch in batches] == list(range(5))
    for batch in batches:
        numbers = numbers_of(batch)
        assert batch.images.shape == (8, 3, 16, 16)
        assert batch.images.dtype == np.uint8
        assert batch.tokens.dtype == np.int64
        assert (batch.images == np.array([colour_of(n) for n in numbers])[:, :, None, None]).all()
        assert (batch.tokens == tokenizer([caption_of(n) for n in numbers]).numpy()).all()
        assert (batch.visit[batch.scored] == 0).all()
        assert batch.epoch == 0


def test_epoch_scores_each_sample_once_and_fills_the_last_batch(pool: tuple[Artifact, str]) -> None:
    batches = list(Loader(spec_of(pool), 0, 1).iterate(1))
    scored = Counter(int(lo) for batch in batches for lo in batch.uid_lo[batch.scored])
    assert scored == Counter(range(TOTAL))
    assert all(batch.scored.all() for batch in batches[:-1])
    last = batches[-1]
    assert last.scored.sum() == TOTAL - 8 * 4
    assert set(last.uid_lo[~last.scored]) <= set(batches[0].uid_lo)
    assert all((batch.visit[batch.scored] == 1).all() for batch in batches)


@pytest.mark.parametrize("world", [2, 4])
def test_global_batches_do_not_depend_on_the_number_of_ranks(pool: tuple[Artifact, str], world: int) -> None:
    assert global_batches(spec_of(pool), world, 2) == global_batches(spec_of(pool), 1, 2)


@pytest.mark.parametrize("window", [1, 3, 100])
def test_resume_anywhere_continues_exactly(pool: tuple[Artifact, str], window: int) -> None:
    spec = spec_of(pool, window=window)
    straight = list(Loader(spec, 1, 2).iterate(1))
    for first in range(len(straight) + 1):
        resumed = list(Loader(spec, 1, 2).iterate(1, first))
        assert len(resumed) == len(straight) - first
        for one, other in zip(resumed, straight[first:], strict=True):
            assert one.index == other.index
            for name in ("images", "tokens", "uid_hi", "uid_lo", "scored"):
                assert (getattr(one, name) == getattr(other, name)).all()


def test_resume_does_not_read_what_lies_before(pool: tuple[Artifact, str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(pool, window=2, prefetch=0)
    read: list[tuple[str, int]] = []
    original = Storage.read_ranges

    def recording(self: Storage, uri: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        read.extend((uri, length) for _, length in ranges)
        return original(self, uri, ranges)

    monkeypatch.setattr(Storage, "read_ranges", recording)
    list(Loader(spec, 0, 1).iterate(0, 3))
    late = sum(length for uri, length in read if uri.endswith(".tar"))
    read.clear()
    list(Loader(spec, 0, 1).iterate(0))
    whole = sum(length for uri, length in read if uri.endswith(".tar"))
    assert late < 0.6 * whole  # 2 of 5 batches


def test_neighbours_are_read_by_one_request(pool: tuple[Artifact, str], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = Storage.read_ranges

    def recording(self: Storage, uri: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        read.extend(uri for _ in ranges)
        return original(self, uri, ranges)

    monkeypatch.setattr(Storage, "read_ranges", recording)
    list(Loader(spec_of(pool, window=100, batch_size=16, lanes=1), 0, 1).iterate(0))
    tars = [uri for uri in read if uri.endswith(".tar")]
    filler_reads = 4  # 14 fillers in 5 shards at most, one of them empty
    assert len(tars) <= len([count for count in COUNTS if count]) + filler_reads + 1


def test_restriction_to_a_subset_visits_its_samples_alone(pool: tuple[Artifact, str], tmp_path: Path) -> None:
    chosen = [0, 3, 8, 9, 20, 30, 33]
    hi, lo = (np.array([uid_of(n)[half] for n in [*chosen, 999]], np.uint64) for half in (0, 1))
    np.save(tmp_path / "trusted.npy", to_records(hi, lo))
    spec = spec_of(pool, samples=(str(tmp_path / "trusted.npy"),), batch_size=4, lanes=2)
    loader = Loader(spec, 0, 1)
    batches = list(loader.iterate(0))
    assert loader.order.num_samples == 7
    assert Counter(int(lo) for batch in batches for lo in batch.uid_lo[batch.scored]) == Counter(chosen)
    assert {n for batch in batches for n in numbers_of(batch)} == set(chosen)


def test_restriction_to_nothing_is_refused(pool: tuple[Artifact, str], tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", to_records(np.array([5], np.uint64), np.array([5], np.uint64)))
    with pytest.raises(UserError, match=r"none\.npy"):
        Loader(spec_of(pool, samples=(str(tmp_path / "none.npy"),)), 0, 1)


def test_epoch_shorter_than_a_batch_is_filled_around(pool: tuple[Artifact, str]) -> None:
    (batch,) = Loader(spec_of(pool, batch_size=64, lanes=4), 0, 1).iterate(0)
    assert batch.scored.sum() == TOTAL
    assert sorted(batch.uid_lo[batch.scored].tolist()) == list(range(TOTAL))
    assert max(Counter(batch.uid_lo.tolist()).values()) <= 5
    numbers_of(batch)


def test_replacement_numbers_the_visits(pool: tuple[Artifact, str]) -> None:
    loader = Loader(spec_of(pool, replacement=True), 0, 1)
    met: Counter[int] = Counter()
    for epoch in range(3):
        for batch in loader.iterate(epoch):
            for number, visit in zip(batch.uid_lo[batch.scored].tolist(), batch.visit[batch.scored], strict=True):
                assert visit == met[number]
                met[number] += 1
    assert met.total() == 3 * TOTAL
    assert max(met.values()) > 3


def test_spec_is_picklable_and_gives_the_same_batches(pool: tuple[Artifact, str]) -> None:
    spec = spec_of(pool)
    again = pickle.loads(pickle.dumps(spec))
    assert global_batches(again, 2, 0) == global_batches(spec, 2, 0)


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_and_prefetch_change_nothing(pool: tuple[Artifact, str], threads: int) -> None:
    changed = spec_of(pool, decode_threads=threads, prefetch=threads)
    assert global_batches(changed, 1, 0) == global_batches(spec_of(pool), 1, 0)


@pytest.mark.parametrize("prefetch", [0, 3])
def test_processes_change_nothing(pool: tuple[Artifact, str], prefetch: int) -> None:
    spec = spec_of(pool)
    loader = Loader(spec_of(pool, decode_processes=1 + prefetch % 2, prefetch=prefetch), 1, 2)
    for epoch in (0, 1):
        found, expected = list(loader.iterate(epoch)), list(Loader(spec, 1, 2).iterate(epoch))
        for one, other in zip(found, expected, strict=True):
            assert one.index == other.index
            for name in ("images", "tokens", "uid_hi", "uid_lo", "scored", "visit"):
                assert (getattr(one, name) == getattr(other, name)).all()
    loader.close()


def test_iterations_over_processes_that_are_given_up_leave_room_for_others(pool: tuple[Artifact, str]) -> None:
    loader = Loader(spec_of(pool, decode_processes=1, prefetch=1), 0, 1)
    for epoch in range(6):
        batches = loader.iterate(epoch)
        numbers_of(next(batches))
        batches.close()  # type: ignore[attr-defined]
    assert len(list(loader.iterate(0))) == 5
    loader.close()


def test_draft_decodes_otherwise(pool: tuple[Artifact, str], tmp_path: Path) -> None:
    large = make_pool(tmp_path, [8], side=40, noise=True)
    exact, draft = (next(iter(Loader(spec_of(large, decode=name), 0, 1).iterate(0))) for name in ("exact", "draft"))
    assert (exact.uid_lo == draft.uid_lo).all()
    difference = abs(exact.images.astype(int) - draft.images)
    assert 0 < difference.max() <= 2  # PNG: resized otherwise, not reduced


def test_lanes_that_ranks_cannot_share_are_refused(pool: tuple[Artifact, str]) -> None:
    with pytest.raises(UserError, match="multiple of the number of ranks, 3"):
        Loader(spec_of(pool), 0, 3)


@pytest.mark.parametrize("processes", [0, 1])
def test_broken_sample_stops_with_file_offset_and_uid(tmp_path: Path, processes: int) -> None:
    pool = make_pool(tmp_path, [4, 4])
    tar = tmp_path / "tars" / "00000001.tar"
    data = bytearray(tar.read_bytes())
    row = pool[0].read_table("order/part-00001.parquet").slice(2, 1).to_pylist()[0]
    data[row["offset"] + 512 : row["offset"] + 600] = bytes(88)  # the image's first bytes
    tar.write_bytes(data)
    loader = Loader(spec_of(pool, lanes=1, batch_size=4, decode_processes=processes), 0, 1)
    with pytest.raises(RunError) as error:
        list(loader.iterate(0))
    loader.close()
    assert f"00000001.tar, offset {row['offset']}, uid {row['uid_hi']:016x}{row['uid_lo']:016x}" in str(error.value)


def test_truncated_shard_stops_with_its_name(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, [6])
    tar = tmp_path / "tars" / "00000000.tar"
    tar.write_bytes(tar.read_bytes()[:4000])
    with pytest.raises(RunError, match=r"00000000\.tar"):
        list(Loader(spec_of(pool, lanes=1, batch_size=2), 0, 1).iterate(0))


def test_iteration_that_is_given_up_ends_its_threads(pool: tuple[Artifact, str]) -> None:
    import threading

    before = threading.active_count()
    batches = Loader(spec_of(pool), 0, 1).iterate(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_wait_share_is_a_share(pool: tuple[Artifact, str]) -> None:
    loader = Loader(spec_of(pool), 0, 1)
    assert loader.wait_share == 0
    list(loader.iterate(0))
    assert 0 < loader.wait_share <= 1
    loader.restart_clock()
    assert loader.wait_share == 0


def test_wait_share_is_of_all_the_time_that_passes(pool: tuple[Artifact, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that ticks whenever it is read: once for each wait, once for what lies between two."""
    ticks = count()
    monkeypatch.setattr("stages.train.loader.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    loader = Loader(spec_of(pool), 0, 1)
    for _ in loader.iterate(0):
        next(ticks)
        next(ticks)
    assert loader.wait_share == 5 / (5 + 4 * 3 + 1)


def test_pool_whose_tables_disagree_is_an_error(tmp_path: Path) -> None:
    pool, path = make_pool(tmp_path / "a", [4, 4])
    short, _ = make_pool(tmp_path / "b", [4, 3])
    pool = with_file(pool, "shards.parquet", (Path(short.root) / "shards.parquet").read_bytes())
    with pytest.raises(RunError, match="not as long as its shards"):
        Loader(spec_of((pool, path)), 0, 1)
