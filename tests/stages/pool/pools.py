"""Small pools in DataComp's layout, built with Python's own tarfile so that our reader meets another's archives."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Members = list[tuple[str, bytes]]


@cache
def jpeg(width: int = 24, height: int = 16, shade: int = 0) -> bytes:
    """A small photograph-like JPEG."""
    image = Image.linear_gradient("L").resize((width, height)).point(lambda value: (value + shade) % 256)
    sink = io.BytesIO()
    Image.merge("RGB", (image, image.rotate(180), image)).save(sink, "JPEG", quality=80)
    return sink.getvalue()


def uid_of(number: int) -> str:
    """A uid whose prefix is spread over all buckets."""
    return f"{(number * 0x9E3779B97F4A7C15F39CC0605CEDC834 + 7) % (1 << 128):032x}"


@dataclass(frozen=True)
class Pair:
    """What a sample holds; None leaves a member out."""

    key: str
    uid: str | None
    caption: str | None = "two red digits"
    image: bytes | None = field(default_factory=jpeg)
    fields: Mapping[str, object] = field(default_factory=dict)

    def members(self) -> Members:
        """Files as img2dataset names and orders them."""
        body = {"uid": self.uid, "caption": self.caption, "key": self.key, **self.fields}
        found: Members = []
        if self.image is not None:
            found.append((f"{self.key}.jpg", self.image))
        found.append((f"{self.key}.json", json.dumps({k: v for k, v in body.items() if v is not None}).encode()))
        if self.caption is not None:
            found.append((f"{self.key}.txt", self.caption.encode()))
        return found


def pair(number: int, *, shard: int = 0) -> Pair:
    """A usable sample that differs from all others."""
    caption = f"picture number {number} of the pool é"
    return Pair(f"{shard:05d}{number:07d}", uid_of(number), caption, jpeg(24 + number % 5, 16, number % 200))


def archive(members: Sequence[tuple[str, bytes]], *, style: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar by Python's tarfile, with owners and times as img2dataset leaves them."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=style) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname, info.mode = len(data), 1_700_000_000, "bigdata", 0o444
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def shard_bytes(pairs: Sequence[Pair]) -> bytes:
    """A shard of whole samples."""
    return archive([member for item in pairs for member in item.members()])


def write_pool(root: Path, shards: Mapping[str, bytes]) -> Path:
    """Shards by relative path."""
    for name, data in shards.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def plain_pool(root: Path, num_shards: int = 4, per_shard: int = 12) -> list[Pair]:
    """A pool without ills; its samples in order."""
    by_shard = [[pair(s * per_shard + n, shard=s) for n in range(per_shard)] for s in range(num_shards)]
    write_pool(root, {f"{s:08d}.tar": shard_bytes(pairs) for s, pairs in enumerate(by_shard)})
    return [item for pairs in by_shard for item in pairs]


def write_metadata(root: Path, name: str, uids: Sequence[str | None], **columns: object) -> Path:
    """One metadata file."""
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"uid": pa.array(uids, pa.string()), **columns}), root / name)
    return root


def ill_pool(root: Path) -> list[Pair]:
    """Three shards with duplicates across them, broken samples, and metadata with gaps; its usable samples."""
    by_shard = [[pair(s * 10 + n, shard=s) for n in range(10)] for s in range(3)]
    by_shard[1][4] = Pair("4", uid_of(3), "again")
    by_shard[2][0] = Pair("0", uid_of(3).upper(), "and again")
    by_shard[2][9] = Pair("9", uid_of(29), None)
    write_pool(root / "shards", {f"{s}.tar": shard_bytes(pairs) for s, pairs in enumerate(by_shard)})
    write_metadata(root / "meta", "a.parquet", [uid_of(n) for n in range(0, 40, 2)], score=np.arange(20.0))
    write_metadata(root / "meta", "b.parquet", [uid_of(n) for n in range(1, 30, 2)], score=np.arange(15.0))
    return [
        item
        for s, pairs in enumerate(by_shard)
        for n, item in enumerate(pairs)
        if (s, n) not in ((1, 4), (2, 0), (2, 9))
    ]
