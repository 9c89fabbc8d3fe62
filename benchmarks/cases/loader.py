"""From tar to normalised batch: our loader beside webdataset with open_clip's own pipeline, as many workers each.

Both read the same shards, shuffle, decode, resize, crop, tokenise and normalise; what is timed is an epoch of an
already running loader: at identical pixels (checked against open_clip's transform) decoding in threads and in
processes, and with `decode: draft`, whose difference of pixels is told.
"""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import webdataset
from PIL import Image

from benchmarks.measure import Run, run_pairs, timed
from benchmarks.record import Line, Target
from benchmarks.scale.shards import LARGE_PICTURES, picture_bank
from benchmarks.scale.training_pool import put_training_pool
from benchmarks.scale.uids import Uids
from pipeline.artifact import Artifact
from stages.formats.image import Decode, decode_image
from stages.models.config import ModelConfig
from stages.models.encode import normalise
from stages.models.threads import fixed_threads
from stages.train.draft_difference import draft_difference
from stages.train.loader import Loader, LoaderSpec

MODEL = ModelConfig(name="ViT-B-32")
_WORKERS = 2
_PREFETCH = 2


@dataclass(frozen=True)
class _Size:
    samples: int
    batch_size: int
    pairs: int


@dataclass(frozen=True)
class _Way:
    decode: Decode
    processes: bool

    def __str__(self) -> str:
        pixels = "identical pixels" if self.decode == "exact" else "`decode: draft`"
        return f"{pixels}, in {'processes' if self.processes else 'threads'}"


_WAYS = (_Way("exact", processes=False), _Way("exact", processes=True), _Way("draft", processes=False))
_SIZES = {"short": _Size(128, 32, 3), "full": _Size(512, 64, 10)}


def measure(form: str) -> list[Line]:
    """A line a way of ours."""
    size = _SIZES[form]
    with tempfile.TemporaryDirectory(prefix="gradsieve-bench-") as scratch:
        pool = put_training_pool(
            Path(scratch), Uids(size.samples), shard_size=size.samples // 8, pictures=LARGE_PICTURES
        )
        largest = _largest_difference()
        if largest:
            raise RuntimeError(f"pixels differ from open_clip's by up to {largest}")
        with _webdataset(pool[1], size) as theirs, fixed_threads(1):  # as in a rank, and in webdataset's workers
            return [_measure(way, pool, size, theirs) for way in _WAYS]


def _measure(way: _Way, pool: tuple[Artifact, str], size: _Size, theirs: Callable[[], Run]) -> Line:
    spec = LoaderSpec(
        pool=pool[0],
        pool_path=pool[1],
        model=MODEL,
        seed=0,
        lanes=4,
        window=1024,
        batch_size=size.batch_size,
        decode=way.decode,
        decode_threads=_WORKERS,
        decode_processes=_WORKERS if way.processes else 0,
        prefetch=_PREFETCH,
    )
    loader = Loader(spec, 0, 1)
    try:
        pairs = run_pairs(lambda: timed(lambda: _epoch(loader)), theirs, size.pairs)
    finally:
        loader.close()
    facts = {
        "workers": _WORKERS,
        "batch_size": size.batch_size,
        "pictures": asdict(LARGE_PICTURES),
        "webdataset": webdataset.__version__,
    }
    if way.decode == "draft":
        facts["draft_difference"] = draft_difference(spec)
    return Line(
        f"loader, tar to normalised batch, {way}",
        f"webdataset {webdataset.__version__} as open_clip uses it, {_WORKERS} workers each",
        pairs.speedup(),
        Target(1.2 if way.decode == "draft" else 1.0, "higher"),
        len(pairs),
        {"samples": size.samples, "batches": size.samples // size.batch_size},
        pairs.seconds(),
        facts,
    )


def _epoch(loader: Loader) -> dict[str, int]:
    shapes = [normalise(torch.from_numpy(batch.images)).shape for batch in loader.iterate(0)]
    return {"samples": sum(shape[0] for shape in shapes), "batches": len(shapes)}


@contextmanager
def _webdataset(shards: str, size: _Size) -> Iterator[Callable[[], Run]]:
    loader = webdataset.WebLoader(
        _pipeline(shards, size.batch_size),
        batch_size=None,
        shuffle=False,
        num_workers=_WORKERS,
        persistent_workers=True,
        prefetch_factor=_PREFETCH,
    )

    def epoch() -> dict[str, int]:
        shapes = [images.shape for images, _ in loader]
        return {"samples": sum(shape[0] for shape in shapes), "batches": len(shapes)}

    yield lambda: timed(epoch)


def _pipeline(shards: str, batch_size: int) -> Any:
    """What open_clip's `get_wds_dataset` builds, with the transform of its evaluation: the one that draws nothing."""
    tokenizer = open_clip.get_tokenizer(str(MODEL.name))
    return webdataset.DataPipeline(
        webdataset.SimpleShardList(sorted(map(str, Path(shards).glob("*.tar")))),
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        webdataset.shuffle(bufsize=5000, initial=1000),
        webdataset.decode("pilrgb"),
        webdataset.rename(image="jpg;png;jpeg;webp", text="txt"),
        webdataset.map_dict(image=_transform(), text=lambda text: tokenizer(text)[0]),
        webdataset.to_tuple("image", "text"),
        webdataset.batched(batch_size, partial=True),
    )


def _transform() -> Any:
    return open_clip.image_transform(MODEL.image_size, is_train=False)


def _largest_difference() -> float:
    """Between our normalised pixels and open_clip's, over the pictures of the pool."""
    transform = _transform()
    largest = 0.0
    for data in picture_bank(LARGE_PICTURES, 0):
        ours = normalise(torch.from_numpy(decode_image(data, MODEL.image_size))[None])[0]
        theirs = transform(Image.open(io.BytesIO(data)))
        largest = max(largest, float((ours - theirs).abs().max()))
    return largest
