"""CLIP scores of a stretch of the pool: read, decode, encode, one number a sample.

A stretch lies in one shard, and its scores are an entry (`pipeline.reuse`): what is added to a pool changes neither
which samples are encoded together nor what is found of the others.
"""

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import Artifact
from pipeline.reuse import Entries
from pipeline.storage import join
from stages.formats.ranges import read_pieces
from stages.formats.sample import Sample, decode_sample, sample_place
from stages.formats.score_parts import SplitPart, record_type, sorted_records, split_part
from stages.kernels.grouping import consecutive_groups
from stages.selectors.base import NO_STEP, SINGLE_VISIT, TABLE, Scores, refuse_not_finite

CLIP_SCORES = "scores/clip_score"
"""Kind of the entries."""
_VERSION = 1
"""Raised whenever the same samples and model give other scores than before."""
SLICE_ROWS = 8192
"""Samples of an entry, at most; fixed, as sums in the encoder may depend on how samples are batched."""
BATCH_ROWS = {"cpu": 64, "cuda": 1024}
"""Samples of one pass through the encoder, by device."""
_MODEL_FILES = ("model/open_clip_model.safetensors", "model/open_clip_config.json")
Device = Literal["cpu", "cuda"]


class OrderSlice(NamedTuple):
    """Consecutive rows of one part of the pool's order table, all of one shard."""

    part: str
    first: int
    rows: int
    shard: str
    """Path below the pool."""
    sha256: str
    """Of the shard."""


class ScoredSlice(NamedTuple):
    """What a slice became."""

    part: SplitPart
    entry: str
    """Name of the entry in which it lies."""


def slices(pool: Artifact) -> list[OrderSlice]:
    """All of the pool, in the order of its shards.

    Raises:
        RunError: the list of shards is damaged.
    """
    columns = pool.read_table("shards.parquet", ["path", "sha256", "usable"])
    shards = zip(*(columns[name].to_pylist() for name in ("path", "sha256", "usable")), strict=True)
    parts = iter(pool.files("order/", ".parquet"))
    found: list[OrderSlice] = []
    part, begin = None, 0
    for path, sha256, usable in shards:
        while usable and (part is None or begin == part.rows):
            part, begin = next(parts), 0
        for first in range(begin, begin + usable, SLICE_ROWS):
            assert part is not None  # a shard with samples lies in a part
            found.append(OrderSlice(part.path, first, min(SLICE_ROWS, begin + usable - first), path, sha256))
        begin += usable
    return found


def tasks(pool: Artifact) -> list[tuple[OrderSlice, ...]]:
    """The slices for each task: several where shards are small."""
    return consecutive_groups(slices(pool), lambda piece: piece.rows, lambda _: SLICE_ROWS)


def score_slices(
    pieces: tuple[OrderSlice, ...],
    *,
    pool: Artifact,
    pool_path: str,
    reference: Artifact,
    entries: Entries,
    bits: int,
    device: Device = "cpu",
) -> list[ScoredSlice]:
    """Cosine similarity of image and caption of each sample in some slices; those that are known are not encoded."""
    model = [reference.entry(path).sha256 for path in _MODEL_FILES]
    scored = []
    for piece in pieces:
        rows = _read_rows(pool, piece)
        key = entries.key(_VERSION, model, device, BATCH_ROWS[device], piece.sha256, _digest(rows))
        entry = entries.find(key)
        if entry is None:
            encoder = _encoder(reference, device)
            samples = _samples(rows, pool, join(pool_path, piece.shard), encoder.image_size)
            score = np.concatenate([encoder.similarity(batch) for batch in _batches(samples, BATCH_ROWS[device])])
            entry = _put(rows, score, pool.uri(piece.part), entries, key)
        (file,) = entry.files()
        records = np.frombuffer(entry.read_bytes(file.path), record_type(TABLE))
        scored.append(ScoredSlice(split_part(entry.uri(file.path), records, bits), entries.name(key)))
    return scored


def _put(rows: pa.Table, score: NDArray[np.float32], where: str, entries: Entries, key: str) -> Artifact:
    scores = Scores(rows["uid_hi"].to_numpy(), rows["uid_lo"].to_numpy(), score)
    refuse_not_finite(scores, "clip_score", where)
    columns = {
        **scores._asdict(),
        "visit": np.full(len(score), SINGLE_VISIT, np.uint16),
        "step": np.full(len(score), NO_STEP, np.int32),
    }
    records = sorted_records(pa.table({name: columns[name] for name in TABLE.names}, schema=TABLE))
    file = entries.writer(key).put_by_content("scores", ".records", records.tobytes(), rows=len(records))
    return entries.commit(key, [file], {})


def _digest(rows: pa.Table) -> str:
    """Of which samples of a shard these are."""
    digest = hashlib.sha256()
    for name in ("uid_hi", "uid_lo", "offset", "length"):
        digest.update(rows[name].to_numpy().tobytes())
    return digest.hexdigest()


def _read_rows(pool: Artifact, piece: OrderSlice) -> pa.Table:
    """The rows of a slice; row groups beside it are not read."""
    tables, start = [], 0
    with pool.open_table(piece.part) as file:
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            first, last = max(start, piece.first), min(stop, piece.first + piece.rows)
            if first < last:
                tables.append(file.read_row_group(group).slice(first - start, last - first))
            start = stop
    return pa.concat_tables(tables).combine_chunks()


def _samples(rows: pa.Table, pool: Artifact, uri: str, image_size: int) -> Iterator[Sample]:
    """Decoded samples of a shard in the order of the rows, read by few requests."""
    offset, length = rows["offset"].to_numpy(), rows["length"].to_numpy()
    uids = zip(rows["uid_hi"].to_pylist(), rows["uid_lo"].to_pylist(), strict=True)
    pieces = read_pieces(pool.storage, uri, offset, length)
    for data, begin, (hi, lo) in zip(pieces, offset.tolist(), uids, strict=True):
        yield decode_sample(data, image_size, where=sample_place(uri, begin, hi, lo))


class _Encoder:
    """The reference model in this process."""

    def __init__(self, model: Any, config: Any, device: Device) -> None:
        from stages.models.build import build_tokenizer  # brings torch, which only the tasks need

        self._model, self._device = model.to(device), device
        self.image_size, self._tokenizer = int(config.image_size), build_tokenizer(config)

    def similarity(self, samples: list[Sample]) -> NDArray[np.float32]:
        """[n] cosine of the angle between image and caption."""
        import torch

        from stages.models.encode import encode_images, encode_texts
        from stages.models.threads import fixed_threads

        images = torch.from_numpy(np.stack([sample.pixels for sample in samples])).to(self._device)
        tokens = self._tokenizer([sample.caption for sample in samples]).to(self._device)
        with torch.inference_mode(), fixed_threads(1):
            cosine = (encode_images(self._model, images) * encode_texts(self._model, tokens)).sum(1)
        return np.asarray(cosine.cpu().numpy(), np.float32)


_loaded: dict[tuple[str, Device], _Encoder] = {}


def _encoder(reference: Artifact, device: Device) -> _Encoder:
    """The reference model, loaded once in a process; the root of an artifact names its content."""
    key = (reference.root, device)
    if key not in _loaded:
        from stages.models.weights import load_model

        _loaded.clear()
        _loaded[key] = _Encoder(*load_model(reference), device)
    return _loaded[key]


def _batches(samples: Iterator[Sample], rows: int) -> Iterator[list[Sample]]:
    while batch := list(islice(samples, rows)):
        yield batch
