"""Metadata like DataComp's, of any size: as columns of a pool's index, and as the files that DataComp's tools read."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.scale.draws import Rows, integers, normal, rows, shuffled, uniform
from benchmarks.scale.tables import Columns, is_good
from benchmarks.scale.uids import Uids
from stages.kernels.uid import to_hex

_PHRASES = 1 << 14
_FIRST, _SECOND, _WIDTH, _ASPECT, _B32, _L14, _FILE_ORDER = range(50, 57)
_SYLLABLES = np.array(["ka", "ro", "mi", "ten", "sel", "ba", "dor", "lu", "shi", "van", "per", "no", "gra", "fi"])


def metadata_columns(uids: Uids, rank: Rows) -> Columns:
    """Caption, original size and both CLIP scores, in DataComp's names and types; url and digest are left out.

    Captions are of 0 to 15 words, images from 64 to 2,048 pixels wide and up to four times as long as wide.
    """
    seed = uids.seed
    width = np.exp2(6 + 5 * uniform(rank, seed, _WIDTH))
    good = is_good(rank, seed)
    l14 = 0.2 + 0.04 * good + 0.05 * normal(rank, seed, _L14)
    b32 = 0.1 + 0.8 * l14 + 0.03 * normal(rank, seed, _B32)
    return {
        "text": captions(rank, seed),
        "original_width": width.astype(np.int64),
        "original_height": (width * np.exp2(4 * uniform(rank, seed, _ASPECT) - 2)).astype(np.int64),
        "clip_b32_similarity_score": b32.astype(np.float64),
        "clip_l14_similarity_score": l14.astype(np.float64),
    }


def captions(rank: Rows, seed: int) -> pa.StringArray:
    """[n] captions, each of two of some thousand phrases."""
    bank = pa.array(_phrases(seed))
    first, second = (bank.take(pa.array(integers(rank, _PHRASES, seed, stream))) for stream in (_FIRST, _SECOND))
    return pc.utf8_trim_whitespace(pc.binary_join_element_wise(first, second, " "))


def put_datacomp_files(root: Path, uids: Uids, num_files: int) -> list[Path]:
    """Metadata as DataComp publishes it: uids as text, rows in no order, a share of them in each file."""
    root.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(num_files):
        first, last = (edge * uids.num_samples // num_files for edge in (number, number + 1))
        rank = shuffled(rows(first, last), uids.num_samples, uids.seed, _FILE_ORDER)
        table = pa.table({"uid": to_hex(uids.hi(rank), uids.lo(rank)), **metadata_columns(uids, rank)})
        paths.append(root / f"{number:032x}.parquet")
        pq.write_table(table, paths[-1], compression="snappy", use_dictionary=["text"])
    return paths


@lru_cache(maxsize=4)
def _phrases(seed: int) -> Sequence[str]:
    """Runs of 0 to 7 words, one in forty with a letter that is not ASCII."""
    rng = np.random.default_rng(seed)
    words = ["".join(_SYLLABLES[rng.integers(0, len(_SYLLABLES), rng.integers(1, 4))]) for _ in range(3000)]
    words = [word.replace("o", "ö") if rng.random() < 0.025 else word for word in words]
    return [
        " ".join(words[number] for number in rng.integers(0, len(words), rng.integers(0, 8))) for _ in range(_PHRASES)
    ]
