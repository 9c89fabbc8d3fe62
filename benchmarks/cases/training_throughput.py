"""Samples a second of a whole training, loader included: ours with scores and ledger beside open_clip's own trainer.

Both train the same architecture on the same shards with the same batch, precision, optimizer and number of threads and
loading workers. They take turns of several steps; each may load ahead while it waits, by about as many batches.
"""

import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import run_pairs
from benchmarks.record import Line, Target
from benchmarks.scale.shards import LARGE_PICTURES
from benchmarks.scale.training_pool import put_training_pool
from benchmarks.scale.uids import Uids
from benchmarks.stepwise import Gate, Stepper
from benchmarks.trainer import SMALL, put_reference, run_training
from pipeline.artifact import Artifact
from stages.train.config import TrainConfig

_WORKERS = 2
_THREADS = 2
_SHARDS = 8
_NAME = "gradsieve-small"


class _Size(NamedTuple):
    samples: int
    batch_size: int
    steps: int
    """A turn."""
    pairs: int


_SIZES = {"short": _Size(1024, 16, 4, 4), "full": _Size(2048, 16, 8, 10)}


def measure(form: str) -> list[Line]:
    """One ratio."""
    size = _SIZES[form]
    with tempfile.TemporaryDirectory(prefix="gradsieve-bench-") as scratch:
        folder = Path(scratch)
        pool = put_training_pool(
            folder, Uids(size.samples), shard_size=size.samples // _SHARDS, pictures=LARGE_PICTURES
        )
        with _ours(pool, size, folder) as ours, _open_clip(pool[1], size, folder) as theirs:
            pairs = run_pairs(lambda: ours.steps(size.steps), lambda: theirs.steps(size.steps), size.pairs)
    median = pairs.seconds()
    samples = size.batch_size * size.steps
    facts = {
        "model": SMALL.architecture,
        "batch_size": size.batch_size,
        "precision": "fp32",
        "threads": _THREADS,
        "loading_workers": _WORKERS,
        "samples_per_second": {name: samples / seconds for name, seconds in median.items()},
    }
    return [
        Line(
            "training throughput with scores and ledger, loader included",
            "open_clip_train on the same shards, model, batch, precision",
            pairs.speedup(),
            Target(1.0, "higher"),
            len(pairs),
            {"samples_a_turn": samples},
            median,
            facts,
        )
    ]


def _ours(pool: tuple[Artifact, str], size: _Size, folder: Path) -> Stepper:
    config = TrainConfig(
        model=SMALL,
        samples_seen=size.samples,
        batch_size=size.batch_size,
        lanes=4,
        threads_per_rank=_THREADS,
        loader_threads=_WORKERS,
        precision="fp32",
        warmup=10,
    )
    reference = put_reference(folder / "reference", SMALL)
    counts = {"samples": size.batch_size}
    return Stepper(run_training, pool, config, reference, str(folder / "ours"), counts=counts, threads=_THREADS)


def _open_clip(shards: str, size: _Size, folder: Path) -> Stepper:
    models = folder / "models"
    models.mkdir()
    (models / f"{_NAME}.json").write_text(json.dumps(SMALL.architecture))
    arguments = [
        f"--train-data={shards}/{{{0:08d}..{_SHARDS - 1:08d}}}.tar",
        f"--train-num-samples={size.samples}",
        "--dataset-type=webdataset",
        f"--model={_NAME}",
        f"--batch-size={size.batch_size}",
        f"--workers={_WORKERS}",
        "--precision=fp32",
        "--epochs=1",
        "--warmup=10",
        "--lr=5e-4",
        "--wd=0.2",
        "--device=cpu",
        f"--logs={folder / 'logs'}",
        "--name=benchmark",
    ]
    return Stepper(_train_open_clip, str(models), arguments, counts={"samples": size.batch_size}, threads=_THREADS)


class _Gated:
    """A data loader that passes a gate between batches."""

    def __init__(self, loader: Any, gate: Gate) -> None:
        self._loader, self._gate = loader, gate
        self.num_batches, self.num_samples = loader.num_batches, loader.num_samples

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            yield batch
            self._gate.passed()  # the next one is asked for when the step is done


def _train_open_clip(gate: Gate, models: str, arguments: list[str]) -> None:
    """`open_clip_train.main` itself, its data loader wrapped."""
    import open_clip
    from open_clip_train import main

    multiprocessing.set_start_method("fork", force=True)  # as from a command line; its loader cannot be pickled
    open_clip.add_model_config(models)
    get_data = main.get_data

    def gated(*options: Any, **named: Any) -> Any:
        data = get_data(*options, **named)
        data["train"].dataloader = _Gated(data["train"].dataloader, gate)
        return data

    main.get_data = gated
    main.main(arguments)
