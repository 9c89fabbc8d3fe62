"""CLIP scores of a stretch of the pool: read, decode, encode, one number a sample."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.storage import join
from stages.formats.ranges import read_pieces
from stages.formats.sample import Sample, decode_sample, sample_place
from stages.formats.score_parts import SplitPart, split_by_bucket
from stages.selectors.base import NO_STEP, SINGLE_VISIT, TABLE, Scores, refuse_not_finite

SLICE_ROWS = 8192
"""Samples of a task; fixed, as sums in the encoder may depend on how samples are batched."""
BATCH_ROWS = {"cpu": 64, "cuda": 1024}
"""Samples of one pass through the encoder, by device."""
Device = Literal["cpu", "cuda"]


class OrderSlice(NamedTuple):
    """Consecutive rows of one part of the pool's order table."""

    part: str
    first: int
    rows: int


def slices(pool: Artifact) -> list[OrderSlice]:
    """All of the pool, in the order of its shards."""
    return [
        OrderSlice(part.path, first, min(SLICE_ROWS, part.rows - first))
        for part in pool.files("order/", ".parquet")
        for first in range(0, part.rows, SLICE_ROWS)
    ]


def score_slice(
    piece: OrderSlice,
    *,
    pool: Artifact,
    pool_path: str,
    reference: Artifact,
    writer: ArtifactWriter,
    bits: int,
    device: Device = "cpu",
) -> SplitPart:
    """Cosine similarity of image and caption of each sample in a slice, as a split part."""
    rows = _read_rows(pool, piece)
    model = _encoder(reference, device)
    samples = _samples(rows, pool, pool_path, model.image_size)
    score = np.concatenate([model.similarity(batch) for batch in _batches(samples, BATCH_ROWS[device])])
    scores = Scores(rows["uid_hi"].to_numpy(), rows["uid_lo"].to_numpy(), score)
    refuse_not_finite(scores, "clip_score", pool.uri(piece.part))
    columns = {
        **scores._asdict(),
        "visit": np.full(len(score), SINGLE_VISIT, np.uint16),
        "step": np.full(len(score), NO_STEP, np.int32),
    }
    table = pa.table({name: columns[name] for name in TABLE.names}, schema=TABLE)
    stem = piece.part.rpartition("/")[2].removesuffix(".parquet")
    return split_by_bucket(table, writer, f"{stem}-{piece.first:09d}", bits)


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


def _samples(rows: pa.Table, pool: Artifact, pool_path: str, image_size: int) -> Iterator[Sample]:
    """Decoded samples in the order of the rows; each shard's stretch is read by few requests."""
    listed = pool.read_table("shards.parquet", ["shard", "path"])
    paths = dict(zip(listed["shard"].to_pylist(), listed["path"].to_pylist(), strict=True))
    shards = rows["shard"].to_numpy()
    for shard in np.unique(shards).tolist():
        mine = rows.filter(pa.array(shards == shard))
        uri = join(pool_path, paths[shard])
        offset, length = mine["offset"].to_numpy(), mine["length"].to_numpy()
        uids = zip(mine["uid_hi"].to_pylist(), mine["uid_lo"].to_pylist(), strict=True)
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
