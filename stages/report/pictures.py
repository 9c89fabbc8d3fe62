"""Thumbnails and captions of a few samples, read by range from the pool's tars."""

import base64
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from PIL import Image, ImageOps

from pipeline.artifact import Artifact
from pipeline.storage import Storage, join
from stages.formats.pair import IMAGE_EXTENSIONS
from stages.formats.tar import read_members
from stages.report.gallery import Shown

EDGE = 96
"""Longer side of a thumbnail, pixels."""
_QUALITY = 80
_MAX_CAPTION = 240
_MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class Picture:
    """What a person sees of a sample."""

    image: str | None
    """`data:` URI of a small JPEG; None if the image cannot be read."""
    width: int
    height: int
    caption: str
    problem: str | None
    """Why there is no image."""


def read_pictures(storage: Storage, pool: Artifact, pool_path: str, wanted: Iterable[Shown]) -> dict[str, Picture]:
    """Pictures by uid; each sample is read once, shard by shard."""
    table = pool.read_table("shards.parquet", ["shard", "path"])
    paths: Mapping[int, str] = dict(zip(table["shard"].to_pylist(), table["path"].to_pylist(), strict=True))
    distinct = {shown.uid: shown for shown in wanted}
    pictures = {}
    for shown in sorted(distinct.values(), key=lambda shown: (shown.shard, shown.offset)):
        data = storage.read_range(join(pool_path, paths[shown.shard]), shown.offset, shown.length)
        pictures[shown.uid] = picture_of(data)
    return pictures


def picture_of(sample: bytes) -> Picture:
    """Thumbnail and caption from one sample's stretch of a tar."""
    members = {name.rpartition(".")[2].lower(): data for name, data in read_members(sample)}
    caption = _caption(members)
    encoded = next((members[ending] for ending in IMAGE_EXTENSIONS if ending in members), None)
    if encoded is None:
        return Picture(None, 0, 0, caption, "no image member")
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                return Picture(None, width, height, caption, "too many pixels to show")
            image.draft("RGB", (2 * EDGE, 2 * EDGE))
            small = ImageOps.contain(image.convert("RGB"), (EDGE, EDGE))
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:  # what Pillow raises on broken input
        return Picture(None, 0, 0, caption, f"unreadable: {error}")
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=_QUALITY)
    uri = "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()
    return Picture(uri, width, height, caption, None)


def _caption(members: Mapping[str, bytes]) -> str:
    if "txt" in members:
        text = members["txt"].decode("utf-8", "replace")
    elif "json" in members:
        text = str(json.loads(members["json"]).get("caption", ""))
    else:
        text = ""
    return text if len(text) <= _MAX_CAPTION else text[: _MAX_CAPTION - 1] + "…"
