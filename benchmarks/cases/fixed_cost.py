"""What a run costs however small it is: a re-run of a finished one, and what Ray and the engine add to a stage."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.measure import Pairs, Run, bootstrap, run_pairs, timed
from benchmarks.record import Line, Target
from benchmarks.scale.ledgers import put_ledger
from benchmarks.scale.metadata import metadata_columns
from benchmarks.scale.tables import put_pool
from benchmarks.scale.uids import Uids
from benchmarks.workplace import data_stages, engine, run_stage, scratch
from pipeline.artifact import Artifact
from pipeline.engine import Engine

SECONDS_RERUN, SECONDS_STAGE = 3.0, 2.0
_ROOT = Path(__file__).parents[2]
_CONFIG = _ROOT / "tests" / "configs" / "tiny.yaml"
_LESS = ["reference.base.epochs=1", "reference.tune.epochs=1", "train.epochs=1", "evaluate=off"]
"""Training as short as can be: its result does not matter here."""
_SAMPLES = 256
_RERUN = """\
import sys
from pipeline.cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
loaded = sorted({"ray", "torch"} & set(sys.modules))
assert not loaded, f"a re-run loaded {loaded}"
"""
_EMPTY_RAY = "import ray; ray.init(address='local', include_dashboard=False); ray.shutdown()"


class _Size(NamedTuple):
    reruns: int
    rows: int
    stage_pairs: int


_SIZES = {"short": _Size(1, 2_000, 1), "full": _Size(10, 2_000, 10)}


def measure(form: str) -> list[Line]:
    """A line for the re-run, one beside an empty `ray.init`, one for the stages."""
    size = _SIZES[form]
    with scratch() as folder:
        _command(folder, "-m", "pipeline.cli.app", "pool", "make", "pool", "--samples", str(_SAMPLES))
        run = ["run", str(_CONFIG), *_LESS]
        _command(folder, "-m", "pipeline.cli.app", *run, "cluster.executor=in_process")  # the same, made sooner

        def rerun() -> Run:
            return timed(lambda: _command(folder, "-c", _RERUN, *run))

        def empty_ray() -> Run:
            return timed(lambda: _command(folder, "-c", _EMPTY_RAY))

        pairs = run_pairs(rerun, empty_ray, size.reruns)
    counts = {"samples": _SAMPLES}
    return [
        Line(
            "re-run of a finished run, without Ray and torch",
            f"{SECONDS_RERUN:g} s",
            bootstrap([each.seconds / SECONDS_RERUN for each in pairs.ours]),
            Target(1, "lower"),
            len(pairs),
            counts,
            {"ours": pairs.seconds()["ours"]},
        ),
        Line(
            "re-run of a finished run, without Ray and torch",
            "an empty ray.init",
            pairs.slowdown(),
            None,
            len(pairs),
            counts,
            pairs.seconds(),
        ),
        _stages(size),
    ]


def _stages(size: _Size) -> Line:
    """Every stage with a started Ray minus the same stage in this process: what the slowest start adds."""
    with scratch() as folder, engine() as on_ray, engine("in_process") as here:
        uids = Uids(size.rows)
        made: dict[str, Artifact] = {
            "training": put_ledger(folder / "training", uids, 3),
            "pool": put_pool(folder / "pool", uids, 1, lambda rank: metadata_columns(uids, rank)),
        }
        numbers = iter(range(1 << 30))
        added: dict[str, Pairs] = {}
        for name, (stage, makes, reads) in data_stages().items():
            inputs = {role: made[role] for role in reads}

            def once(engine_: Engine, name=name, stage=stage, makes=makes, inputs=inputs) -> Run:  # type: ignore[no-untyped-def]
                root = folder / f"{name}-{next(numbers)}"
                begun = time.perf_counter()
                made[makes] = run_stage(stage, root, makes, engine_, inputs=inputs)
                seconds = time.perf_counter() - begun
                return Run(seconds, {"rows": sum(file.rows for file in made[makes].files())})

            added[name] = run_pairs(lambda once=once: once(on_ray), lambda once=once: once(here), size.stage_pairs)  # type: ignore[misc]
    over = {
        name: [a.seconds - b.seconds for a, b in zip(pairs.ours, pairs.theirs, strict=True)]
        for name, pairs in added.items()
    }
    worst = max(over, key=lambda name: float(np.median(over[name])))
    return Line(
        f"what the engine adds to a stage, the worst of {', '.join(over)}",
        f"{SECONDS_STAGE:g} s",
        bootstrap([seconds / SECONDS_STAGE for seconds in over[worst]]),
        Target(1, "lower"),
        size.stage_pairs,
        {"rows": size.rows},
        {name: float(np.median(seconds)) for name, seconds in over.items()},
        {"worst": worst},
    )


def _command(folder: Path, *arguments: str) -> dict[str, int]:
    """Run Python there; RuntimeError with its last words if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)[:200]} ended with {done.returncode}: {done.stderr[-1000:]}")
    return {"exit": done.returncode}
