from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipeline.artifact import Artifact
from pipeline.storage import Storage
from stages.formats.pair import pair_of
from stages.formats.tar import read_members
from stages.train.order import EpochOrder, Order
from stages.train.sample_index import SampleIndex
from stages.train.window_reader import StreamReader, WindowReader
from tests.stages.train.tiny_pool import caption_of, make_pool

COUNTS = [7, 12, 5, 9]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, str]:
    return make_pool(tmp_path_factory.mktemp("pool"), COUNTS)


def reader_of(pool: tuple[Artifact, str], *, replacement: bool = False) -> tuple[StreamReader, EpochOrder]:
    index = SampleIndex(pool[0])
    order = Order(index.counts, seed=1, lanes=2, window=6, batch_size=8, replacement=replacement)
    epoch = order.epoch(0)
    return StreamReader(pool[0].storage, pool[1], index, epoch), epoch


@pytest.mark.parametrize("replacement", [False, True])
def test_stream_is_read_at_any_places(pool: tuple[Artifact, str], replacement: bool) -> None:
    reader, epoch = reader_of(pool, replacement=replacement)
    first = np.cumsum(COUNTS) - COUNTS
    for places in ([0], [32, 0, 17, 3], list(range(33))):
        stored = reader.read(np.array(places))
        shard, row = epoch.locate(np.sort(places))
        assert stored.positions.tolist() == sorted(places)
        assert stored.rows.uid_lo.tolist() == (first[shard] + row).tolist()
        captions = [pair_of(read_members(bytes(data))).caption for data in stored.data]
        assert captions == [caption_of(int(number)) for number in stored.rows.uid_lo]
        assert [uri.rpartition("/")[2] for uri in stored.uris] == [f"{number:08d}.tar" for number in shard]


def test_windows_are_read_once_ahead_and_forgotten_when_passed(
    pool: tuple[Artifact, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, epoch = reader_of(pool)
    read: list[list[int]] = []
    original = StreamReader.read

    def recording(self: StreamReader, positions: np.ndarray) -> object:
        read.append(sorted(positions.tolist()))
        return original(self, positions)

    monkeypatch.setattr(StreamReader, "read", recording)
    _, count = epoch.lane_span(1)
    with ThreadPoolExecutor(1) as executor:
        windows = WindowReader(reader, epoch, executor)
        for first in range(0, count - 4, 4):
            held = windows.need(1, first, 4)
            places = {place for future in held for place in future.result().positions.tolist()}
            assert set(epoch.emitted(1, first, 4).tolist()) <= places
            assert len(windows._windows) <= 3  # a batch may span two windows, one is ahead
    start, _ = epoch.lane_span(1)
    assert sorted(place for window in read for place in window) == list(range(start, start + count))


def test_resumed_window_is_read_from_its_first_wanted_sample(pool: tuple[Artifact, str]) -> None:
    reader, epoch = reader_of(pool)
    with ThreadPoolExecutor(1) as executor:
        (held,) = WindowReader(reader, epoch, executor).need(0, 4, 2)
        assert held.result().positions.tolist() == sorted(epoch.emitted(0, 4, 2).tolist())


def test_storage_is_asked_once_for_a_stretch(pool: tuple[Artifact, str], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, epoch = reader_of(pool)
    asked: list[str] = []
    original = Storage.read_ranges

    def recording(self: Storage, uri: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        asked.extend(uri for _ in ranges)
        return original(self, uri, ranges)

    monkeypatch.setattr(Storage, "read_ranges", recording)
    reader.read(np.arange(33))
    assert len([uri for uri in asked if uri.endswith(".tar")]) == len(COUNTS)
    assert epoch.order.num_samples == 33
