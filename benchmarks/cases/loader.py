"""From tar to normalised batch: our loader beside webdataset with open_clip's own pipeline, as many workers each.

Both read the same shards, shuffle, decode, resize, crop, tokenise and normalise; what is timed is an epoch of an
already running loader, at identical pixels (checked against open_clip's transform).
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
from stages.formats.image import decode_image
from stages.models.config import ModelConfig
from stages.models.encode import normalise
from stages.train.loader import Loader, LoaderSpec

MODEL = ModelConfig(name="ViT-B-32")
_WORKERS = 2
_PREFETCH = 2


@dataclass(frozen=True)
class _Size:
    samples: int
    batch_size: int
    pairs: int


_SIZES = {"short": _Size(256, 64, 10), "full": _Size(4096, 256, 10)}


def measure(form: str) -> list[Line]:
    """Samples a second of both."""
    size = _SIZES[form]
    with tempfile.TemporaryDirectory(prefix="gradsieve-bench-") as scratch:
        pool = put_training_pool(
            Path(scratch), Uids(size.samples), shard_size=size.samples // 8, pictures=LARGE_PICTURES
        )
        largest = _largest_difference()
        assert largest == 0, f"pixels differ from open_clip's by up to {largest}"
        with _webdataset(pool[1], size) as theirs, _ours(pool, size) as ours:
            pairs = run_pairs(ours, theirs, size.pairs)
    counts = {"samples": size.samples, "batches": size.samples // size.batch_size}
    facts = {
        "workers": _WORKERS,
        "batch_size": size.batch_size,
        "pictures": asdict(LARGE_PICTURES),
        "webdataset": webdataset.__version__,
    }
    return [
        Line(
            "loader, tar to normalised batch, identical pixels",
            f"webdataset {webdataset.__version__} as open_clip uses it, {_WORKERS} workers each",
            pairs.speedup(),
            Target(1.0, "higher"),
            len(pairs),
            counts,
            pairs.seconds(),
            facts,
        )
    ]


@contextmanager
def _ours(pool: tuple[Artifact, str], size: _Size) -> Iterator[Callable[[], Run]]:
    spec = LoaderSpec(
        pool=pool[0],
        pool_path=pool[1],
        model=MODEL,
        seed=0,
        lanes=4,
        window=1024,
        batch_size=size.batch_size,
        decode_threads=_WORKERS,
        prefetch=_PREFETCH,
    )
    loader = Loader(spec, 0, 1)

    def epoch() -> dict[str, int]:
        batches = [normalise(torch.from_numpy(batch.images)).shape for batch in loader.iterate(0)]
        return {"samples": sum(shape[0] for shape in batches), "batches": len(batches)}

    yield lambda: timed(epoch)


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
