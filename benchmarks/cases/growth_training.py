"""How a training's time and memory grow with the samples: one epoch over pools of several sizes, scores and ledger.

The exponent is the slope of log time over log samples. The model is tiny, so that what grows otherwise than arithmetic
would be seen; index, order, loader, ledger, checkpoint at the end are all in it.
"""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.measure import Run, bootstrap, in_fresh_process
from benchmarks.record import Line, Target
from benchmarks.scale.shards import Pictures
from benchmarks.scale.training_pool import put_training_pool
from benchmarks.scale.uids import Uids
from benchmarks.trainer import TINY, put_reference, run_training
from pipeline.artifact import Artifact
from stages.train.config import TrainConfig

_PICTURES = Pictures(side=32, grain=12.0, quality=90)
_BATCH = 128
_LANES = 4
_FLAT_BYTES = 64 << 20
"""What the trainer may hold more at the largest size than at the smallest."""


class _Size(NamedTuple):
    samples: tuple[int, ...]
    repeats: int


_SIZES = {"short": _Size((2_048, 4_096), 1), "full": _Size((2_048, 8_192, 16_384, 32_768, 65_536), 3)}


def measure(form: str) -> list[Line]:
    """The exponent of time, and the memory that the trainer holds."""
    size = _SIZES[form]
    runs: dict[int, list[Run]] = {}
    with tempfile.TemporaryDirectory(prefix="gradsieve-bench-") as scratch:
        reference = put_reference(Path(scratch) / "reference", TINY)
        pools = {number: _pool(Path(scratch) / f"{number}", number) for number in size.samples}
        for repeat in range(size.repeats):
            for number, pool in pools.items():
                folder = str(Path(scratch) / f"{number}" / f"training-{repeat}")
                smallest = pools[size.samples[0]]
                seconds, run = in_fresh_process(_train_twice, smallest, pool, reference, folder)
                runs.setdefault(number, []).append(Run(seconds, {}, run.peak_bytes))
    counts = {f"samples_{place}": number for place, number in enumerate(size.samples)}
    return [_time(runs, counts, size), _memory(runs, counts)]


def _time(runs: Mapping[int, list[Run]], counts: Mapping[str, int], size: _Size) -> Line:
    slopes = [
        float(np.polyfit(np.log(list(runs)), np.log([found[repeat].seconds for found in runs.values()]), 1)[0])
        for repeat in range(size.repeats)
    ]
    return Line(
        "growth of training: exponent of time in samples",
        "1: linear",
        bootstrap(slopes),
        Target(1.05, "lower"),
        size.repeats,
        counts,
        {str(number): float(np.median([run.seconds for run in found])) for number, found in runs.items()},
    )


def _memory(runs: Mapping[int, list[Run]], counts: Mapping[str, int]) -> Line:
    peaks = {number: float(np.median([run.peak_bytes or 0 for run in found])) for number, found in runs.items()}
    sizes = list(peaks)
    more = max(0.0, peaks[sizes[-1]] - peaks[sizes[0]])
    return Line(
        "growth of training: trainer's memory, largest size minus smallest",
        f"{_FLAT_BYTES >> 20} MiB",
        bootstrap([more / _FLAT_BYTES]),
        Target(1, "lower"),
        1,
        counts,
        facts={"peak_bytes": peaks},
    )


def _pool(folder: Path, num_samples: int) -> tuple[Artifact, str]:
    return put_training_pool(folder, Uids(num_samples), shard_size=1_024, pictures=_PICTURES)


def _train_twice(first: tuple[Artifact, str], pool: tuple[Artifact, str], reference: Artifact, folder: str) -> float:
    """Train on the smallest pool, so that nothing is done for the first time; then on this one: its seconds."""
    _train(first, reference, f"{folder}/first")
    begun = time.perf_counter()
    _train(pool, reference, f"{folder}/second")
    return time.perf_counter() - begun


def _train(pool: tuple[Artifact, str], reference: Artifact, folder: str) -> None:
    config = TrainConfig(
        model=TINY,
        epochs=1,
        batch_size=_BATCH,
        lanes=_LANES,
        window=256,  # a window of each lane is held, which a small pool does not fill otherwise
        precision="fp32",
        warmup=2,
    )
    run_training(None, pool, config, reference, folder)
