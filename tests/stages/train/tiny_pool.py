"""A pool of tiny images made by hand: real tars, and the pool artifact's tables over them."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.artifact import Artifact, ArtifactWriter, FileEntry, sha256_file
from pipeline.schema import ORDER, POOL
from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages.kernels.uid import bucket_of
from tests.artifacts import commit

BITS = 2


def uid_of(number: int) -> tuple[int, int]:
    """Uids that are spread over all buckets, in an order unlike that of the numbers."""
    return (number * 0x9E3779B97F4A7C15) % (1 << 64), number


def colour_of(number: int) -> tuple[int, int, int]:
    return (number * 53 % 256, number * 101 % 256, number * 197 % 256)


def caption_of(number: int) -> str:
    return f"a plain square number {number}"


def make_pool(
    root: Path,
    counts: Sequence[int],
    *,
    bits: int = BITS,
    parts: int = 2,
    group_rows: int = 5,
    side: int = 16,
    noise: bool = False,
    metadata: pa.Table | None = None,
) -> tuple[Artifact, str]:
    """(pool artifact, pool path): shard s has `counts[s]` samples; sample numbers run through all shards.

    Row i of `metadata` is joined to sample i.
    """
    pool_path = root / "tars"
    pool_path.mkdir(parents=True)
    rows: list[dict[str, object]] = []
    for shard, count in enumerate(counts):
        rows += _write_shard(pool_path / f"{shard:08d}.tar", shard, len(rows), count, side, noise=noise)
    writer = ArtifactWriter(str(root / "pool"), Storage())
    files = [_put_order(writer, rows, counts, parts, group_rows, part) for part in range(parts)]
    index = pa.Table.from_pylist(rows, pa.schema(list(POOL.columns.items())))
    for name in metadata.column_names if metadata is not None else ():
        index = index.append_column(name, metadata[name])
    files += [_put_index(writer, index, bits, bucket) for bucket in range(1 << bits)]
    shards = {
        "shard": pa.array(range(len(counts)), pa.uint32()),
        "path": [f"{shard:08d}.tar" for shard in range(len(counts))],
        "bytes": pa.array([(pool_path / f"{s:08d}.tar").stat().st_size for s in range(len(counts))], pa.uint64()),
        "sha256": [sha256_file(pool_path / f"{shard:08d}.tar") for shard in range(len(counts))],
        "seen": pa.array(counts, pa.uint32()),
        "usable": pa.array(counts, pa.uint32()),
    }
    files.append(writer.put_table("shards.parquet", pa.table(shards)))
    summary = {"samples": len(rows), "usable": len(rows), "quarantined": 0, "bucket_bits": bits}
    return commit(root / "pool", "pool", StageResult(tuple(files), summary)), str(pool_path)


def _write_shard(path: Path, shard: int, first: int, count: int, side: int, *, noise: bool) -> list[dict[str, object]]:
    rows = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(first, first + count):
            offset = tar.offset
            image = io.BytesIO()
            _picture(number, side, noise=noise).save(image, "PNG")
            hi, lo = uid_of(number)
            text = json.dumps({"uid": f"{hi:016x}{lo:016x}", "caption": caption_of(number)})
            members = {"png": image.getvalue(), "json": text.encode(), "txt": caption_of(number).encode()}
            if number % 3 == 0:
                del members["txt"]  # the caption in .json has to do
            for ending, data in members.items():
                info = tarfile.TarInfo(f"{number:012d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            rows.append(
                {
                    "uid_hi": hi, "uid_lo": lo, "shard": shard, "offset": offset, "length": tar.offset - offset,
                    "key": f"{number:012d}", "image_ext": "png", "text_len": len(caption_of(number)), "words": 5,
                    "width": side, "height": side, "bytes": len(members["png"]),
                }
            )  # fmt: skip
    return rows


def _picture(number: int, side: int, *, noise: bool) -> Image.Image:
    if not noise:
        return Image.new("RGB", (side, side), colour_of(number))
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8))


def _put_order(
    writer: ArtifactWriter, rows: list[dict[str, object]], counts: Sequence[int], parts: int, group: int, part: int
) -> FileEntry:
    first, stop = len(counts) * part // parts, len(counts) * (part + 1) // parts
    mine = [{name: row[name] for name in ORDER.columns} for row in rows if first <= int(str(row["shard"])) < stop]
    table = pa.Table.from_pylist(mine, pa.schema(list(ORDER.columns.items())))
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=group)
    return writer.put_bytes(f"order/part-{part:05d}.parquet", sink.getvalue(), rows=table.num_rows)


def _put_index(writer: ArtifactWriter, index: pa.Table, bits: int, bucket: int) -> FileEntry:
    mine = index.filter(pa.array(bucket_of(index["uid_hi"].to_numpy(), bits) == bucket))
    mine = mine.sort_by([("uid_hi", "ascending"), ("uid_lo", "ascending")])
    return writer.put_table(f"index/bucket-{bucket:05d}.parquet", mine)
