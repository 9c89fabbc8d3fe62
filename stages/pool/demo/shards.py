"""Write shards as img2dataset leaves them: tar, table of attempts, statistics."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.artifact import parquet_bytes
from stages.pool.demo.plan import LOST_BY_TRUNCATION
from stages.pool.demo.render import jpeg, render
from stages.pool.demo.sample import Sample

_ROWS_BITS = 4  # decimal digits of a key that count rows of a shard


@dataclass(frozen=True)
class WrittenShard:
    """What later steps need to know of a shard."""

    keys: tuple[str, ...]
    """By sample; keys of failed downloads are skipped."""
    sha256: tuple[str, ...]
    """Of each sample's picture as downloaded, then of the failed ones'."""
    images: tuple[Image.Image, ...]


def write_shard(
    folder: Path,
    index: int,
    samples: Sequence[Sample],
    failed: Sequence[Sample],
    rng: np.random.Generator,
    *,
    truncated: bool,
) -> WrittenShard:
    """Write `{index:08d}.tar`, `.parquet` and `_stats.json`.

    Args:
        folder: of the shards.
        index: number of the shard.
        samples: in the order of the tar.
        failed: attempted downloads of this shard that gave nothing.
        rng: gives samples and failures their row numbers; as downloads end when they end, keys are not in order.
        truncated: cut the tar within the last samples.
    """
    rows = rng.permutation(len(samples) + len(failed))
    keys = [f"{index * 10**_ROWS_BITS + int(row):0{8 + _ROWS_BITS}d}" for row in rows]
    images = [render(sample.scene, sample.shot) for sample in (*samples, *failed)]
    pictures = [jpeg(image, sample.shot.quality) for image, sample in zip(images, (*samples, *failed), strict=True)]
    facts = [
        _facts(sample, key, picture, ok=position < len(samples))
        for position, (sample, key, picture) in enumerate(zip((*samples, *failed), keys, pictures, strict=True))
    ]
    data = _tar(samples, facts, pictures)
    if truncated:
        data = _cut(data, keys[len(samples) - LOST_BY_TRUNCATION])
    (folder / f"{index:08d}.tar").write_bytes(data)
    attempts = pa.Table.from_pylist(sorted(facts, key=lambda row: str(row["key"])), schema=_ATTEMPTS)
    (folder / f"{index:08d}.parquet").write_bytes(parquet_bytes(attempts))
    statistics = {
        "count": len(keys),
        "successes": len(samples),
        "failed_to_download": len(failed),
        "failed_to_resize": 0,
        "duration": 0.0,
        "start_time": 0.0,
        "end_time": 0.0,
        "status_dict": {"success": len(samples), **({_FAILURE: len(failed)} if failed else {})},
    }
    (folder / f"{index:08d}_stats.json").write_text(json.dumps(statistics, indent=4))
    digests = tuple(hashlib.sha256(picture).hexdigest() for picture in pictures)
    return WrittenShard(tuple(keys[: len(samples)]), digests, tuple(images))


_FAILURE = "HTTP Error 404: Not Found"

_ATTEMPTS = pa.schema(
    {
        "uid": pa.string(),
        "face_bboxes": pa.list_(pa.list_(pa.float64())),
        "caption": pa.string(),
        "url": pa.string(),
        "key": pa.string(),
        "status": pa.string(),
        "error_message": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "original_width": pa.int32(),
        "original_height": pa.int32(),
        "exif": pa.string(),
        "sha256": pa.string(),
    }
)


def _facts(sample: Sample, key: str, picture: bytes, *, ok: bool) -> dict[str, Any]:
    return {
        "uid": sample.uid,
        "face_bboxes": [],
        "caption": None if "no_caption" in sample.ills else sample.caption,
        "url": sample.url,
        "key": key,
        "status": "success" if ok else "failed_to_download",
        "error_message": None if ok else _FAILURE,
        "width": sample.shot.width if ok else None,
        "height": sample.shot.height if ok else None,
        "original_width": sample.original_width if ok else None,
        "original_height": sample.original_height if ok else None,
        "exif": "{}" if ok else None,
        "sha256": hashlib.sha256(picture).hexdigest() if ok else None,
    }


def _tar(samples: Sequence[Sample], facts: Sequence[dict[str, Any]], pictures: Sequence[bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample, row, picture in zip(samples, facts, pictures, strict=False):
            stored = picture[: len(picture) // 2] if "truncated_image" in sample.ills else picture
            add_member(tar, f"{row['key']}.jpg", stored)
            add_member(tar, f"{row['key']}.json", json.dumps(row, indent=4).encode())
            if row["caption"] is not None:
                add_member(tar, f"{row['key']}.txt", row["caption"].encode())
    return sink.getvalue()


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append one file as webdataset's writer does, but without the time."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = len(data), 0o444, "bigdata", "bigdata"
    tar.addfile(info, io.BytesIO(data))


def _cut(data: bytes, key: str) -> bytes:
    """The tar up to the middle of a sample's picture."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        member = tar.getmember(f"{key}.jpg")
    return data[: member.offset_data + member.size // 2]
