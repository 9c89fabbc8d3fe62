"""Pools of real tars of any size, as img2dataset writes them: JPEG, caption and JSON a sample, keys in no order."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.scale.artifacts import put_all
from benchmarks.scale.draws import integers, rows, shuffled
from benchmarks.scale.metadata import captions
from benchmarks.scale.uids import Uids
from pipeline.artifact import ArtifactWriter, FileEntry
from stages.kernels.uid import to_hex

_PICTURES = 64
_PICTURE, _ORDER = 70, 71
_MTIME = 1_700_000_000


@dataclass(frozen=True)
class Pictures:
    """What the pictures of a pool are like."""

    side: int = 256
    """Pixels of the longer side."""
    grain: float = 12.0
    """Deviation of the noise in each pixel, of 255."""
    quality: int = 90
    """Of the JPEG."""


SMALL_PICTURES = Pictures()
"""About 30 KB a sample, as DataComp's pools have it."""
LARGE_PICTURES = Pictures(512, 3.0, 75)
"""As large as DataComp's downloader leaves them; about 45 KB a sample."""


def put_shards(
    root: Path, uids: Uids, *, shard_size: int = 10_000, pictures: Pictures = SMALL_PICTURES
) -> list[FileEntry]:
    """Tars of `shard_size` samples; uids lie in no order.

    Args:
        root: folder of the tars.
        uids: of the samples.
        shard_size: samples a tar; the last one may have fewer.
        pictures: what they show is noise, what they are like is given.
    """
    bank = picture_bank(pictures, uids.seed)

    def put(writer: ArtifactWriter, number: int) -> FileEntry:
        first = number * shard_size
        last = min(first + shard_size, uids.num_samples)
        return writer.put_bytes(f"{number:08d}.tar", _tar(uids, number, first, last, bank), rows=last - first)

    return put_all(put, root, range(-(-uids.num_samples // shard_size)))


def picture_bank(pictures: Pictures, seed: int) -> list[bytes]:
    """JPEGs of coloured noise, a few dozen different ones."""
    side = pictures.side
    rng = np.random.default_rng(seed)
    bank = []
    for _ in range(_PICTURES):
        height = int(side * rng.uniform(0.6, 1))
        coarse = Image.fromarray(rng.integers(0, 256, (height // 8, side // 8, 3), np.uint8)).resize((side, height))
        grain = np.asarray(coarse, np.float32) + rng.normal(0, pictures.grain, (height, side, 3))
        sink = io.BytesIO()
        Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)).save(sink, "JPEG", quality=pictures.quality)
        bank.append(sink.getvalue())
    return bank


def _tar(uids: Uids, shard: int, first: int, last: int, bank: list[bytes]) -> bytes:
    rank = shuffled(rows(first, last), uids.num_samples, uids.seed, _ORDER)
    uid = to_hex(uids.hi(rank), uids.lo(rank)).to_pylist()
    text = captions(rank, uids.seed).to_pylist()
    picture = integers(rank, len(bank), uids.seed, _PICTURE).tolist()
    place = shuffled(rows(0, last - first), last - first, uids.seed, _ORDER + 1 + shard).tolist()
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in range(last - first):
            key = f"{shard * 10_000 + place[row]:012d}"
            caption = text[row] or "untitled"
            members = {"jpg": bank[picture[row]], "json": _json(uid[row], key, caption), "txt": caption.encode()}
            for ext, data in members.items():
                info = tarfile.TarInfo(f"{key}.{ext}")
                info.size, info.mode, info.mtime = len(data), 0o444, _MTIME
                info.uname = info.gname = "bigdata"
                tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def _json(uid: str, key: str, caption: str) -> bytes:
    fields = {"uid": uid, "caption": caption, "url": f"https://example.org/{key}.jpg", "key": key, "status": "success"}
    return json.dumps({**fields, "error_message": None, "exif": "{}", "sha256": uid * 2}, indent=4).encode()
