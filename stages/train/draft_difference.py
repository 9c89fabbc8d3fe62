"""How far pixels of `decode: draft` are from exact ones, on a pool's own pictures."""

from typing import Any

import numpy as np

from pipeline.storage import join
from stages.formats.ranges import read_pieces
from stages.formats.sample import decode_sample_into, sample_place
from stages.formats.uid_set import read_uid_set
from stages.train.loader import LoaderSpec
from stages.train.sample_index import SampleIndex

NUM_SAMPLES = 64


def draft_difference(spec: LoaderSpec) -> dict[str, Any]:
    """Compare the first samples of the first shard that has any.

    Returns:
        samples; mean and max of the differences of pixel values (0..255).
    """
    only = read_uid_set(spec.pool.storage, spec.samples) if spec.samples else None
    index = SampleIndex(spec.pool, only)
    shard = int(np.flatnonzero(index.counts)[0])
    rows = index.rows(shard).take(np.arange(min(NUM_SAMPLES, int(index.counts[shard]))))
    uri = join(spec.pool_path, index.paths[shard])
    side = spec.model.image_size
    exact, draft = np.empty((2, 3, side, side), np.uint8)
    means, largest = [], []
    for number, data in enumerate(read_pieces(spec.pool.storage, uri, rows.offset, rows.length)):
        where = sample_place(uri, int(rows.offset[number]), int(rows.uid_hi[number]), int(rows.uid_lo[number]))
        decode_sample_into(data, exact, where=where)
        decode_sample_into(data, draft, where=where, decode="draft")
        difference = np.abs(exact.astype(np.int16) - draft)
        means.append(float(difference.mean()))
        largest.append(int(difference.max()))
    return {
        "samples": len(means),
        "mean": round(float(np.mean(means)), 4),
        "max": max(largest),
    }
