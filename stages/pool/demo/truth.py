"""What is wrong with each sample, for evaluation and report alone; and the verified subset."""

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from stages.kernels.uid import parse_hex, to_records
from stages.pool.demo.sample import Sample


def truth_table(samples: Sequence[Sample], keys: Sequence[str]) -> pa.Table:
    """One row a uid: uid, ills, mismatched, clean, trusted, true_caption, duplicate_of, key.

    The second sample of a duplicated uid has no row: it never was a sample of its own.
    """
    rows = [(sample, key) for sample, key in zip(samples, keys, strict=True) if "duplicate_uid" not in sample.ills]
    return pa.table(
        {
            "uid": [sample.uid for sample, _ in rows],
            "ills": pa.array([list(sample.ills) for sample, _ in rows], pa.list_(pa.string())),
            "mismatched": [sample.mismatched for sample, _ in rows],
            "clean": [not sample.ills for sample, _ in rows],
            "trusted": [sample.trusted for sample, _ in rows],
            "true_caption": [sample.true_caption for sample, _ in rows],
            "duplicate_of": pa.array([sample.duplicate_of for sample, _ in rows], pa.string()),
            "key": [key for _, key in rows],
        }
    )


def trusted_ids(samples: Sequence[Sample]) -> bytes:
    """The trusted samples' uids as `.npy` of `u8,u8`, sorted."""
    uids = parse_hex([sample.uid for sample in samples if sample.trusted])
    sink = io.BytesIO()
    np.save(sink, np.sort(to_records(uids.hi, uids.lo)))
    return sink.getvalue()
