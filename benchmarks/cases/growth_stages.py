"""How time and memory grow with the rows: each stage behind the training at three sizes of equal buckets.

The exponent is the slope of log time over log rows. Time is that of this process on one partition after the other, so
that neither the start of workers nor idle cores flatten it. A driver that holds no rows is as large at every size.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measure import PeakMemory, bootstrap, in_fresh_process
from benchmarks.record import Line, Target
from benchmarks.scale.ledgers import put_ledger
from benchmarks.scale.metadata import metadata_columns
from benchmarks.scale.tables import put_pool
from benchmarks.scale.uids import Uids
from benchmarks.workplace import data_stages, engine, run_stage, scratch
from pipeline.artifact import Artifact
from pipeline.rates import RatesConfig
from pipeline.stage import Size

_VISITS = 3
_RATES = RatesConfig().model_dump()
_FLAT_BYTES = 64 << 20
"""What the driver may hold more at the largest size than at the smallest."""


class _Size(NamedTuple):
    samples: tuple[int, ...]
    bucket_rows: int
    repeats: int


_SIZES = {
    "short": _Size((62_500, 250_000, 1_000_000), 62_500, 2),
    "full": _Size((1_000_000, 10_000_000, 100_000_000), 1_000_000, 10),
}


class _Stages(NamedTuple):
    """Seconds of each stage in one process, and peaks above idle."""

    seconds: dict[str, float]
    peaks: dict[str, int]


def measure(form: str) -> list[Line]:
    """A line a stage for the time, one for the driver's memory."""
    size = _SIZES[form]
    runs: dict[int, list[_Stages]] = {}
    drivers: dict[int, int] = {}
    for num_samples in size.samples:
        with scratch() as folder:
            inputs = _inputs(num_samples, size, folder)
            runs[num_samples] = [
                in_fresh_process(_in_one_process, inputs, folder / f"{number}")[0] for number in range(size.repeats)
            ]
            drivers[num_samples] = in_fresh_process(_driver, inputs, folder / "driver")[0]
    counts = {f"samples_{number}": num_samples for number, num_samples in enumerate(size.samples)}
    lines = [_growth(name, runs, counts, size) for name in runs[size.samples[0]][0].seconds]
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


def _growth(name: str, runs: Mapping[int, list[_Stages]], counts: Mapping[str, int], size: _Size) -> Line:
    sizes = list(runs)
    slopes = [
        float(np.polyfit(np.log(sizes), np.log([runs[rows][number].seconds[name] for rows in sizes]), 1)[0])
        for number in range(size.repeats)
    ]
    peaks = {rows: max(run.peaks[name] for run in runs[rows]) for rows in sizes}
    facts = {"peak_bytes_of_task_and_driver": peaks, "planned_peak_task_bytes": _planned(name, size)}
    seconds = {f"{rows:,}": float(np.median([run.seconds[name] for run in runs[rows]])) for rows in sizes}
    return Line(
        f"growth of {name}: exponent of time in rows",
        "linear",
        bootstrap(slopes),
        Target(1.05, "lower"),
        size.repeats,
        counts,
        seconds,
        facts,
    )


def _inputs(num_samples: int, size: _Size, folder: Path) -> dict[str, Artifact]:
    uids = Uids(num_samples)
    bits = max(0, (num_samples // size.bucket_rows - 1).bit_length())
    return {
        "training": put_ledger(folder / "training", uids, _VISITS),
        "pool": put_pool(folder / "pool", uids, bits, lambda rank: metadata_columns(uids, rank)),
    }


def _run_all(executor: Any, inputs: Mapping[str, Artifact], out: Path) -> _Stages:
    made = dict(inputs)
    result = _Stages({}, {})
    with engine(executor) as here:
        for name, (stage, makes, reads) in data_stages().items():
            with PeakMemory() as memory:
                begun = time.perf_counter()
                made[makes] = run_stage(stage, out / name, makes, here, inputs={role: made[role] for role in reads})
                result.seconds[name] = time.perf_counter() - begun
            result.peaks[name] = memory.above_idle
    return result


def _in_one_process(inputs: Mapping[str, Artifact], out: Path) -> _Stages:
    return _run_all("in_process", inputs, out)


def _driver(inputs: Mapping[str, Artifact], out: Path) -> int:
    """Peak of the driver's own memory above idle, while Ray's workers do the work."""
    with engine(), PeakMemory(children=False) as memory:
        _run_all("ray", inputs, out)
    return memory.above_idle


def _planned(name: str, size: _Size) -> int:
    """What the stage says of a task, for buckets of this size."""
    stage = data_stages()[name][0]
    rows = size.bucket_rows
    sizes = {
        "training": Size(rows * _VISITS, 0),
        "pool": Size(rows, 0),
        "votes": Size(rows, 0),
        "decisions": Size(rows, 0),
        "scores/mimic": Size(rows * _VISITS, 0),
    }
    return stage.plan(sizes, _RATES).peak_task_bytes
