"""What scores, reweighting and ledger add to a training step: the same trainer with `method: uniform` and no reference.

Both are whole trainers over the same pool; single steps are timed in turn. Batches are loaded while a trainer waits for
its turn, so that decoding is in neither's step. Memory is the peak of all ranks above what they hold without a model,
in further starts in which freed memory is given back at once.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import Pairs, Run, run_pairs
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
_OTHER_MODEL = "ViT-S-32"


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
    """How often both are started anew for that."""
    memory_pairs: int
    """Starts of both for the memory."""


_STEPS_FOR_MEMORY = 3
_SIZES = {
    "short": _Size((_Setting(_OTHER_MODEL, 4, 1),), 6, 1, 1),
    "full": _Size(
        tuple(_Setting(model, size, ranks) for model, size in (("ViT-B-32", 4), (_OTHER_MODEL, 8)) for ranks in (1, 2)),
        40,
        1,
        2,
    ),
}


def measure(form: str) -> Iterator[Line]:
    """Time and memory of each setting."""
    size = _SIZES[form]
    with tempfile.TemporaryDirectory(prefix="gradsieve-bench-") as scratch:
        folder = Path(scratch)
        pool = put_training_pool(folder, Uids(_SAMPLES), shard_size=_SAMPLES // 4, pictures=SMALL_PICTURES)
        for number, setting in enumerate(size.settings):
            yield from _measure(setting, size, pool, folder / f"{number}")


def _measure(setting: _Setting, size: _Size, pool: tuple[Artifact, str], folder: Path) -> list[Line]:
    reference = put_reference(folder / "reference", ModelConfig(name=setting.model))
    timed = Pairs()
    for start in range(size.starts):
        with (
            _trainer(setting, pool, folder / f"ours-{start}", reference) as ours,
            _trainer(setting, pool, folder / f"theirs-{start}", None) as theirs,
        ):
            pairs = run_pairs(ours.steps, theirs.steps, size.pairs // size.starts)
            timed.ours.extend(pairs.ours)
            timed.theirs.extend(pairs.theirs)

    def peak(weights: Artifact | None) -> Run:
        place = folder / f"memory-{next(numbers)}"
        with _trainer(setting, pool, place, weights, for_memory=True) as trainer:
            trainer.steps(_STEPS_FOR_MEMORY)
            return Run(0.0, {"ranks": setting.ranks}, trainer.peak_bytes)

    numbers = iter(range(1 << 30))
    remembered = run_pairs(lambda: peak(reference), lambda: peak(None), size.memory_pairs, warm_up=0)
    what, against = "training step with scores, weights, ledger", "`method: uniform`, no ledger"
    counts = {"samples_a_step": setting.batch_size, "ranks": setting.ranks}
    peaks = {"ours": remembered.ours[0].peak_bytes, "theirs": remembered.theirs[0].peak_bytes}
    facts = {"peak_bytes": peaks, "precision": "fp32", "device": "cpu"}
    seconds = timed.seconds()
    return [
        Line(f"{what}: time; {setting}", against, timed.slowdown(), Target(1.03, "lower"), len(timed), counts, seconds),
        Line(
            f"{what}: memory; {setting}",
            against,
            remembered.memory(),
            Target(1.02, "lower"),
            len(remembered),
            counts,
            facts=facts,
        ),
    ]


def _trainer(
    setting: _Setting,
    pool: tuple[Artifact, str],
    folder: Path,
    reference: Artifact | None,
    *,
    for_memory: bool = False,
) -> Stepper:
    """With a reference it scores, weighs and keeps a ledger."""
    threads = 2 // setting.ranks
    config = TrainConfig(
        model=ModelConfig(name=setting.model),
        method="uniform" if reference is None else "mimic",
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
    return Stepper(
        run_training, *arguments, counts=counts, world_size=setting.ranks, threads=threads, for_memory=for_memory
    )
