"""Make the demo pool: a web-like image-text pool of real handwriting, with known ills and the truth apart."""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifact import canonical_json, parquet_bytes, sha256_file
from pipeline.errors import UserError
from pipeline.progress import Reporter
from pipeline.storage import is_s3
from stages.pool.demo.evaluation import write_evaluation
from stages.pool.demo.metadata import write_metadata
from stages.pool.demo.plan import Plan, plan_pool
from stages.pool.demo.rates import IllRates
from stages.pool.demo.sample import Sample
from stages.pool.demo.shards import write_shard
from stages.pool.demo.sources import Source, split_sources
from stages.pool.demo.truth import trusted_ids, truth_table

VERSION = 3
"""Raised whenever the same seed and size give another pool than before."""
MIN_SAMPLES = 128
_RECORD = "demo.json"


@dataclass(frozen=True)
class DemoPool:
    """Where a demo pool and its parts lie."""

    directory: Path
    num_samples: int
    seed: int
    created: bool
    """False if the same pool was there already."""

    @property
    def shards(self) -> Path:
        """Folder of the tars."""
        return self.directory / "shards"

    @property
    def metadata(self) -> Path:
        """Folder of DataComp's metadata."""
        return self.directory / "metadata"

    @property
    def trusted(self) -> Path:
        """Uids of verified samples."""
        return self.directory / "trusted.npy"

    @property
    def truth(self) -> Path:
        """What is wrong with each sample."""
        return self.directory / "truth.parquet"

    @property
    def evaluation(self) -> Path:
        """Evaluation sets in the layout of CLIP_benchmark."""
        return self.directory / "eval"


@dataclass(frozen=True)
class _Recipe:
    """All that decides what a demo pool holds."""

    num_samples: int
    seed: int
    rates: IllRates
    scorer_samples: int
    evaluation_images: int

    def record(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self)}


@dataclass
class _Crawl:
    """What is known of the pictures once they are written."""

    pixels: list[NDArray[np.uint8]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    sha256: list[str] = field(default_factory=list)


def make_pool(
    directory: str,
    *,
    num_samples: int = 8192,
    seed: int = 0,
    reporter: Reporter,
    rates: IllRates | None = None,
    scorer_samples: int | None = None,
    evaluation_images: int | None = None,
) -> DemoPool:
    """Make a demo pool, or find the same one made before.

    It is built whole beside `directory` and moved there at the end, so that it is there completely or not at all.

    Args:
        directory: local folder: absent, empty, or holding the same demo pool.
        num_samples: samples in the tars, at least 128.
        seed: same seed, same pool, byte for byte.
        reporter: shows progress.
        rates: shares of what is wrong.
        scorer_samples: pictures that the metadata's CLIP scorers learn from; by default half of `num_samples`.
        evaluation_images: pictures of each evaluation set; by default 500, fewer for small pools.

    Raises:
        UserError: the folder holds something else or is not local, or the size is too small.
    """
    if num_samples < MIN_SAMPLES:
        raise UserError("demo pool is too small", expected=f"at least {MIN_SAMPLES} samples", found=num_samples)
    if is_s3(directory):
        raise UserError(
            "the demo pool is made on local disk", where=directory, next_step="make it locally, then copy the folder"
        )
    recipe = _Recipe(
        num_samples,
        seed,
        rates or IllRates(),
        scorer_samples or min(4096, max(1024, num_samples // 2)),
        evaluation_images or min(500, max(100, num_samples // 8)),
    )
    target = Path(directory).expanduser().resolve()
    if _is_there(target, recipe):
        reporter.say(f"demo pool is there already: {target} ({num_samples:,} samples, seed {seed})")
        return DemoPool(target, num_samples, seed, created=False)
    building = target.with_name(f".{target.name}.building-{os.getpid()}")
    try:
        building.mkdir(parents=True)
        _build(building, recipe, reporter)
        building.rename(target)  # replaces an empty folder, and fails on any other
    finally:
        shutil.rmtree(building, ignore_errors=True)
    reporter.say(f"demo pool made: {target} ({num_samples:,} samples, seed {seed})")
    return DemoPool(target, num_samples, seed, created=True)


def _is_there(target: Path, recipe: _Recipe) -> bool:
    """Whether the same pool is there, whole; UserError if something else is."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    record = target / _RECORD
    if not record.is_file():
        raise UserError(
            "folder is not empty and holds no demo pool",
            where=target,
            next_step="name another folder",
        )
    found = json.loads(record.read_bytes())
    files = found.pop("files")
    wanted = recipe.record()
    if found != wanted:
        differing = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)]
        raise UserError(
            "folder holds another demo pool",
            where=target,
            expected=", ".join(f"{key} {wanted.get(key)}" for key in sorted(differing)),
            found=", ".join(f"{key} {found.get(key)}" for key in sorted(differing)),
            next_step="remove it, or name another folder",
        )
    changed = [path for path, entry in files.items() if _bytes(target / path) != entry["bytes"]]
    if changed:
        raise UserError(
            "demo pool was changed after it was made",
            where=target / changed[0],
            expected=f"{files[changed[0]]['bytes']} bytes",
            found=f"{_bytes(target / changed[0])} bytes",
            next_step=f"remove {target} and make it again",
        )
    return True


def _bytes(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _build(folder: Path, recipe: _Recipe, reporter: Reporter) -> None:
    sources = split_sources(recipe.seed)
    plan = plan_pool(sources["pool"], recipe.num_samples, recipe.seed, recipe.rates)
    keys, crawl = _write_shards(folder / "shards", plan, recipe.seed, reporter)
    scores = _score(crawl, sources["scorer"], recipe, reporter)
    (folder / "metadata").mkdir()
    write_metadata(folder / "metadata", crawl.samples, crawl.sha256, scores, np.random.default_rng([recipe.seed, 9]))
    (folder / "truth.parquet").write_bytes(parquet_bytes(truth_table(plan.samples, keys)))
    (folder / "trusted.npy").write_bytes(trusted_ids(plan.samples))
    write_evaluation(folder / "eval", sources["evaluation"], recipe.evaluation_images, recipe.seed)
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / _RECORD).write_bytes(canonical_json({**recipe.record(), "files": files}))


def _write_shards(folder: Path, plan: Plan, seed: int, reporter: Reporter) -> tuple[list[str], _Crawl]:
    from stages.pool.demo.scorers import thumbnail  # torch is paid for only where a pool is really made

    folder.mkdir()
    crawl = _Crawl()
    keys: list[str] = []
    with reporter.bar("demo pool: pictures", len(plan.samples), "samples") as bar:
        for index in range(plan.num_shards):
            samples, failed = plan.shard(index), plan.missing[index :: plan.num_shards]
            rng = np.random.default_rng([seed, 8, index])
            written = write_shard(folder, index, samples, failed, rng, truncated=index == plan.truncated_shard)
            crawl.samples += [*samples, *failed]
            crawl.sha256 += written.sha256
            crawl.pixels += [thumbnail(image) for image in written.images]
            keys += written.keys
            bar.advance(len(samples))
    return keys, crawl


def _score(crawl: _Crawl, source: Source, recipe: _Recipe, reporter: Reporter) -> dict[str, NDArray[np.float64]]:
    from stages.pool.demo.scorers import RECIPES, clean_sample, similarity, train_scorer

    pixels, captions = np.stack(crawl.pixels), [sample.caption for sample in crawl.samples]
    scores = {}
    with reporter.bar("demo pool: pictures for its scorers", recipe.scorer_samples, "samples") as bar:
        learnt = clean_sample(source, recipe.scorer_samples, recipe.seed, bar)
    for scorer in RECIPES:
        total = scorer.epochs * recipe.scorer_samples
        with reporter.bar(f"demo pool: scorer {scorer.name}", total, "samples") as bar:
            model, tokenizer = train_scorer(scorer, *learnt, recipe.seed, bar)
        scores[scorer.name] = similarity(model, tokenizer, pixels, captions)
    return scores
