"""Measure the rates behind `--plan` on this machine: `python -m benchmarks.record_rates`.

Every stage runs on generated inputs of two sizes, in one process; the rate is what one more second of one core does, so
that what a stage costs once is left out. Seconds are those of the process on its cores, not those of a clock: a busy
machine changes them little. Writes `benchmarks/results/rates.json`; `pipeline/rates.py` holds the same figures, to two
digits, as defaults.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.record import RESULTS, machine, versions
from benchmarks.scale.chain import Ran, run_shards, run_tables
from pipeline.plan import size_of

SMALL, LARGE = (150_000, 0), (600_000, 2)
"""Samples and bucket bits."""
FEW, MANY = 200, 800
"""Samples in tars."""
NAME = "rates.json"


def main() -> None:
    """Measure and write."""
    rates = {**of_tables(_tables(SMALL), _tables(LARGE)), **_of_tars()}
    body = {
        "command": "python -m benchmarks.record_rates",
        "sizes": {"tables": [SMALL[0], LARGE[0]], "tars": [FEW, MANY]},
        "machine": machine(),
        "versions": versions(),
        "rates": {name: float(f"{rate:.3g}") for name, rate in rates.items()},
    }
    (RESULTS / NAME).write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
    print(json.dumps(body["rates"], indent=1))


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


def _tables(size: tuple[int, int]) -> dict[str, Ran]:
    with tempfile.TemporaryDirectory(prefix="rates-") as folder:
        return run_tables(Path(folder), *size)


def _of_tars() -> dict[str, float]:
    """Reading, decoding, copying; images of 512 pixels, four times the bytes that a pool's usually have."""
    seconds: dict[tuple[int, str], dict[str, float]] = {}
    sizes = {}
    for number in (FEW, MANY):
        with tempfile.TemporaryDirectory(prefix="rates-") as folder:
            for check in ("headers", "decode"):
                done = run_shards(Path(folder), number, shard_size=100, check=check, side=512)
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
