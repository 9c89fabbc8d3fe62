"""What scores, reweighting and ledger add to a training step: the same trainer with `method: uniform` and no reference.

Both are whole trainers over the same pool; single steps are timed in turn. Batches are loaded while a trainer waits for
its turn, so that decoding is in neither's step. Memory is the peak of all ranks above what they hold without a model.
"""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import Pairs, bootstrap, run_pairs
from benchmarks.record import Line, Target
from benchmarks.scale.shards import SMALL_PICTURES
from benchmarks.scale.training_pool import put_training_pool
from benchmarks.scale.uids import Uids
from benchmarks.stepwise import Stepper
from benchmarks.trainer import put_reference, run_training
from pipeline.artifact import Artifact
from stages.models.config import ModelConfig
from stages.train.config import TrainConfig

_SAMPLES = 512
_MODEL_OF_LONG_STEPS = "ViT-S-32"


class _Setting(NamedTuple):
    model: str
    batch_size: int
    ranks: int

    def __str__(self) -> str:
        return f"{self.model}, batch {self.batch_size}, {self.ranks} rank{'s' if self.ranks > 1 else ''}"


class _Size(NamedTuple):
    settings: tuple[_Setting, ...]
    pairs: int
    """Steps of each trainer that are timed in all."""
    starts: int
    """How often both are started anew; each time gives a pair for the memory."""


_SIZES = {
    "short": _Size((_Setting("ViT-B-32", 4, 1), _Setting(_MODEL_OF_LONG_STEPS, 8, 2)), 10, 1),
    "full": _Size(
        tuple(
            _Setting(model, size, ranks)
            for model, size in (("ViT-B-32", 8), (_MODEL_OF_LONG_STEPS, 32))
            for ranks in (1, 2)
        ),
        40,
        5,
    ),
}


def measure(form: str) -> list[Line]:
    """Time and memory of each setting."""
    size = _SIZES[form]
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="gradsieve-bench-") as scratch:
        folder = Path(scratch)
        pool = put_training_pool(folder, Uids(_SAMPLES), shard_size=_SAMPLES // 4, pictures=SMALL_PICTURES)
        for number, setting in enumerate(size.settings):
            lines += _measure(setting, size, pool, folder / f"{number}")
    return lines


def _measure(setting: _Setting, size: _Size, pool: tuple[Artifact, str], folder: Path) -> list[Line]:
    reference = put_reference(folder / "reference", ModelConfig(name=setting.model))
    timed, peaks = Pairs(), []
    for start in range(size.starts):
        with (
            _trainer(setting, pool, folder / f"ours-{start}", method="mimic", reference=reference) as ours,
            _trainer(setting, pool, folder / f"theirs-{start}", method="uniform", reference=None) as theirs,
        ):
            pairs = run_pairs(ours.steps, theirs.steps, size.pairs // size.starts)
            timed.ours.extend(pairs.ours)
            timed.theirs.extend(pairs.theirs)
            peaks.append((ours.peak_bytes, theirs.peak_bytes))
    what, against = "training step with scores, weights, ledger", "`method: uniform`, no ledger"
    counts = {"samples_a_step": setting.batch_size, "ranks": setting.ranks}
    memory = bootstrap([mine / other for mine, other in peaks])
    facts = {"peak_bytes": {"ours": peaks[0][0], "theirs": peaks[0][1]}, "precision": "fp32", "device": "cpu"}
    seconds = timed.seconds()
    return [
        Line(f"{what}: time; {setting}", against, timed.slowdown(), Target(1.03, "lower"), len(timed), counts, seconds),
        Line(f"{what}: memory; {setting}", against, memory, Target(1.02, "lower"), len(peaks), counts, facts=facts),
    ]


def _trainer(
    setting: _Setting, pool: tuple[Artifact, str], folder: Path, *, method: Any, reference: Artifact | None
) -> Stepper:
    threads = 2 // setting.ranks
    config = TrainConfig(
        model=ModelConfig(name=setting.model),
        method=method,
        samples_seen=_SAMPLES,  # more than are trained on: no epoch ends, so nothing is saved
        batch_size=setting.batch_size,
        lanes=2,
        num_workers=setting.ranks,
        threads_per_rank=threads,
        precision="fp32",
        warmup=10,
    )
    counts = {"samples": setting.batch_size}
    arguments = (pool, config, reference, str(folder))
    return Stepper(run_training, *arguments, counts=counts, world_size=setting.ranks, threads=threads)
