"""Measure the rates behind `--plan` on this machine: `python -m benchmarks.record_rates`.

Every stage runs on generated inputs of two sizes, in one process; the rate is what one more second of one core does, so
that what a stage costs once is left out. Seconds are those of the process on its cores, not those of a clock: a busy
machine changes them little, and they are the medians of a few runs. A third size, to which nothing was fitted, says how
well the plan foretells them. Writes `benchmarks/results/rates.json`; `pipeline/rates.py` holds the same rates, to two
digits, as defaults.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from benchmarks.record import RESULTS, machine, versions
from benchmarks.scale.chain import Ran, run_shards, run_tables
from pipeline.plan import size_of
from pipeline.rates import RatesConfig

SMALL, LARGE = (150_000, 0), (1_500_000, 3)
"""Samples and bucket bits."""
OTHER = (3_000_000, 4)
FEW, MANY = 500, 5_000
"""Samples in tars."""
OTHER_NUMBER = 10_000
REPEATS = 3
_SHARD_SIZE, _SIDE = 100, 512
NAME = "rates.json"
_CHECKS: tuple[Literal["headers", "decode"], ...] = ("headers", "decode")


def main() -> None:
    """Measure and write."""
    rates = {**of_tables(_tables(SMALL), _tables(LARGE)), **_of_tars()}
    body = {
        "command": "python -m benchmarks.record_rates",
        "foretold": {"tables": OTHER[0], "tars": OTHER_NUMBER, "seconds": foretold(rates)},
        "repeats": REPEATS,
        "sizes": {"tables": [SMALL[0], LARGE[0]], "tars": [FEW, MANY]},
        "machine": machine(),
        "versions": versions(),
        "rates": {name: float(f"{rate:.3g}") for name, rate in rates.items()},
    }
    (RESULTS / NAME).write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
    print(json.dumps({name: body[name] for name in ("rates", "foretold")}, indent=1))


def work(done: Mapping[str, Ran]) -> dict[str, float]:
    """By rate: the rows that a second does so many of, as the plan counts them."""
    rows = {name: size_of(ran.artifact).rows for name, ran in done.items()}
    scores = rows["scores/clip_score"] + rows["scores/mimic"]
    return {
        "column_rows_per_second_per_cpu": rows["scores/clip_score"],
        "gather_rows_per_second_per_cpu": rows["scores/mimic"],
        "binarize_rows_per_second_per_cpu": rows["scores/mimic"],
        "aggregate_rows_per_second_per_cpu": rows["votes"] + scores,
        "select_rows_per_second_per_cpu": rows["votes"],
    }


STAGE_OF = {
    "column_rows_per_second_per_cpu": "scores/clip_score",
    "gather_rows_per_second_per_cpu": "scores/mimic",
    "binarize_rows_per_second_per_cpu": "votes",
    "aggregate_rows_per_second_per_cpu": "decisions",
    "select_rows_per_second_per_cpu": "subset",
}


def of_tables(small: Mapping[str, Ran], large: Mapping[str, Ran]) -> dict[str, float]:
    """Rates from two sizes."""
    before, after = work(small), work(large)
    return {
        name: (after[name] - before[name]) / (large[stage].seconds - small[stage].seconds)
        for name, stage in STAGE_OF.items()
    }


def foretold(rates: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Seconds of one core of each stage, as planned and as they were, at sizes that the rates are not from."""
    known = RatesConfig().model_dump() | dict(rates)
    with tempfile.TemporaryDirectory(prefix="rates-") as folder:
        tars = _shards(Path(folder), OTHER_NUMBER, "decode")
        stored = sum(path.stat().st_size for path in (Path(folder) / "tars").iterdir())
        planned = _seconds(tars, known | {"bytes_per_sample": stored / OTHER_NUMBER})
    tables = _tables(OTHER)
    planned |= _seconds(tables, known)
    real = {name: ran.seconds for name, ran in (tars | tables).items()}
    return {
        name: {"planned": round(seconds, 2), "real": round(real[name], 2)} for name, seconds in sorted(planned.items())
    }


def _seconds(done: Mapping[str, Ran], rates: Mapping[str, float]) -> dict[str, float]:
    return {name: ran.plan(rates).cpu_hours * 3600 for name, ran in done.items()}


def _tables(size: tuple[int, int]) -> dict[str, Ran]:
    def once() -> dict[str, Ran]:
        with tempfile.TemporaryDirectory(prefix="rates-") as folder:
            return run_tables(Path(folder), *size)

    return _typical(once)


def _shards(folder: Path, number: int, check: Literal["headers", "decode"]) -> dict[str, Ran]:
    def once() -> dict[str, Ran]:
        for made in folder.glob(f"*-{check}"):  # else it would be taken up
            shutil.rmtree(made)
        return run_shards(folder, number, shard_size=_SHARD_SIZE, check=check, side=_SIDE)

    return _typical(once)


def _typical(run: Callable[[], dict[str, Ran]]) -> dict[str, Ran]:
    """Of each stage the run of median seconds."""
    runs = [run() for _ in range(REPEATS)]
    return {name: sorted((ran[name] for ran in runs), key=lambda ran: ran.seconds)[REPEATS // 2] for name in runs[0]}


def _of_tars() -> dict[str, float]:
    """Reading, decoding, copying; images of 512 pixels, four times the bytes that a pool's usually have."""
    seconds: dict[tuple[int, str], dict[str, float]] = {}
    sizes = {}
    for number in (FEW, MANY):
        with tempfile.TemporaryDirectory(prefix="rates-") as folder:
            for check in _CHECKS:
                done = _shards(Path(folder), number, check)
                seconds[number, check] = {name: ran.seconds for name, ran in done.items()}
            sizes[number] = sum(path.stat().st_size for path in (Path(folder) / "tars").iterdir())
    more, read = MANY - FEW, sizes[MANY] - sizes[FEW]

    def further(stage: str, check: str) -> float:
        return seconds[MANY, check][stage] - seconds[FEW, check][stage]

    return {
        "index_bytes_per_second_per_cpu": read / further("pool", "headers"),
        "decodes_per_second_per_cpu": more / (further("pool", "decode") - further("pool", "headers")),
        "copy_bytes_per_second_per_cpu": read / 3 / further("shards", "headers"),
    }


if __name__ == "__main__":
    main()
