"""How time and memory grow with the rows: each stage behind the training at three sizes of equal buckets.

The exponent is the slope of log time over log rows. Time is that of one process on one partition after the other, so
that neither the start of workers nor idle cores flatten it, after a run over a small pool, so that nothing is done for
the first time. A driver that holds no rows is as large at every size.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.measure import PeakMemory, bootstrap, in_fresh_process
from benchmarks.record import Line, Target
from benchmarks.scale.ledgers import put_ledger
from benchmarks.scale.metadata import metadata_columns
from benchmarks.scale.tables import put_pool
from benchmarks.scale.uids import Uids
from benchmarks.workplace import data_stages, engine, run_stage, scratch
from pipeline.artifact import Artifact
from pipeline.engine import Engine

_VISITS = 3
_FLAT_BYTES = 64 << 20
"""What the driver may hold more at the largest size than at the smallest."""


class _Size(NamedTuple):
    samples: tuple[int, ...]
    bucket_rows: int
    repeats: int


_SIZES = {
    "short": _Size((30_000, 240_000), 30_000, 1),
    "full": _Size((333_333, 3_333_333, 33_333_333), 333_333, 1),  # 1, 10 and 100 million rows of the ledger
}
_SMALL = 1_000
_Seconds = dict[str, float]
"""Of each stage."""


def measure(form: str) -> list[Line]:
    """A line a stage for the time, one for the driver's memory."""
    size = _SIZES[form]
    runs: dict[int, list[_Seconds]] = {}
    drivers: dict[int, int] = {}
    with scratch() as place:
        small = _inputs(_SMALL, size, place)
        for num_samples in size.samples:
            with scratch() as folder:
                inputs = _inputs(num_samples, size, folder)
                runs[num_samples] = in_fresh_process(_in_one_process, small, inputs, folder, size.repeats)[0]
                drivers[num_samples] = in_fresh_process(_driver, small, inputs, folder)[0]
    counts = {f"ledger_rows_{number}": num_samples * _VISITS for number, num_samples in enumerate(size.samples)}
    lines = [_growth(name, runs, counts) for name in runs[size.samples[0]][0]]
    more = drivers[size.samples[-1]] - drivers[size.samples[0]]
    flat = Line(
        "growth: driver's memory, largest size minus smallest",
        f"{_FLAT_BYTES >> 20} MiB",
        bootstrap([max(0, more) / _FLAT_BYTES]),
        Target(1, "lower"),
        1,
        counts,
        facts={"peak_bytes_of_driver": drivers},
    )
    return [*lines, flat]


def _growth(name: str, runs: Mapping[int, list[_Seconds]], counts: Mapping[str, int]) -> Line:
    sizes = list(runs)
    slopes = [
        float(np.polyfit(np.log(sizes), np.log([found[name] for found in repeat]), 1)[0])
        for repeat in zip(*runs.values(), strict=True)
    ]
    seconds = {f"{rows:,}": float(np.median([run[name] for run in runs[rows]])) for rows in sizes}
    return Line(
        f"growth of {name}: exponent of time in rows",
        "linear",
        bootstrap(slopes),
        Target(1.05, "lower"),
        len(slopes),
        counts,
        seconds,
    )


def _inputs(num_samples: int, size: _Size, folder: Path) -> dict[str, Artifact]:
    uids = Uids(num_samples)
    bits = max(0, (num_samples // size.bucket_rows - 1).bit_length())
    return {
        "training": put_ledger(folder / "training", uids, _VISITS),
        "pool": put_pool(folder / "pool", uids, bits, lambda rank: metadata_columns(uids, rank)),
    }


def _run_all(here: Engine, inputs: Mapping[str, Artifact], out: Path) -> _Seconds:
    made = dict(inputs)
    seconds: _Seconds = {}
    for name, (stage, makes, reads) in data_stages().items():
        begun = time.perf_counter()
        made[makes] = run_stage(stage, out / name, makes, here, inputs={role: made[role] for role in reads})
        seconds[name] = time.perf_counter() - begun
    return seconds


def _in_one_process(
    small: Mapping[str, Artifact], inputs: Mapping[str, Artifact], out: Path, repeats: int
) -> list[_Seconds]:
    with engine("in_process") as here:
        _run_all(here, small, out / "small")
        return [_run_all(here, inputs, out / f"{number}") for number in range(repeats)]


def _driver(small: Mapping[str, Artifact], inputs: Mapping[str, Artifact], out: Path) -> int:
    """Peak of the driver's own memory above idle, while Ray's workers do the work."""
    with engine() as on_ray:
        _run_all(on_ray, small, out / "small-on-ray")
        with PeakMemory(children=False) as memory:
            _run_all(on_ray, inputs, out / "driver")
    return memory.above_idle
