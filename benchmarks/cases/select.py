"""A rule over metadata (caption, size, CLIP score; no language test): our stage against Polars and DataComp's pandas.

Both others end with DataComp's subset file; ours also writes down for every sample why it was dropped.
"""

import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import polars as pl

from benchmarks.measure import Run, in_fresh_process, run_pairs
from benchmarks.record import Line, Target
from benchmarks.scale.artifacts import committed
from benchmarks.scale.metadata import metadata_columns, put_datacomp_files
from benchmarks.scale.tables import put_pool
from benchmarks.scale.uids import Uids
from benchmarks.workplace import engine, paths, run_stage, scratch
from pipeline.artifact import Artifact
from pipeline.engine import Engine
from pipeline.rates import RatesConfig
from pipeline.stage import Size
from stages.kernels.uid import UID_DTYPE, to_records
from stages.select import SelectConfig, SelectStage

FRACTION = 0.3
_SCORE = "clip_l14_similarity_score"
_WIDTH, _HEIGHT = "original_width", "original_height"


class _Size(NamedTuple):
    rows: int
    bits: int
    files: int
    polars_pairs: int
    pandas_pairs: int


_SIZES = {"short": _Size(1_000_000, 1, 4, 2, 1), "full": _Size(8_000_000, 3, 16, 10, 10)}


def measure(form: str) -> list[Line]:
    """Two lines."""
    size = _SIZES[form]
    uids = Uids(size.rows)
    # As DataComp cuts: everything that reaches the value at rank int(n * fraction), counted from 0.
    wanted = int(size.rows * FRACTION) + 1
    with scratch() as folder, engine() as ours:
        pool = put_pool(folder / "pool", uids, size.bits, lambda rank: metadata_columns(uids, rank))
        files = put_datacomp_files(folder / "metadata", uids, size.files)
        empty = committed(folder / "decisions", "decisions", [], {"scales": {}, "method": "majority"}, 0)
        inputs = {"pool": pool, "decisions": empty}
        numbers = iter(range(1 << 30))

        def stage() -> Run:
            return _timed(lambda out: _ours(ours, inputs, wanted, out), folder / f"ours-{next(numbers)}")

        def polars() -> Run:
            return _timed(lambda out: _polars(pool, wanted, out), folder / f"polars-{next(numbers)}")

        def pandas() -> Run:
            return _timed(lambda out: _pandas(files, workers, out), folder / f"pandas-{next(numbers)}")

        by_polars = run_pairs(stage, polars, size.polars_pairs)
        with get_context("spawn").Pool(os.cpu_count()) as workers:  # started, and warm, before it is timed
            by_pandas = run_pairs(stage, pandas, size.pandas_pairs)
        _check_same_subsets(folder)
        _, one = in_fresh_process(_alone, inputs, wanted, folder / "alone")
        _, whole = in_fresh_process(_polars, pool, wanted, folder / "whole")
    rows = Size(size.rows, 0)
    bound = SelectStage(_config(wanted)).plan({"pool": rows, "decisions": rows}, RatesConfig().model_dump())
    facts = {
        "peak_bytes_of_one_task_and_driver": one.peak_bytes,
        "planned_peak_task_bytes": bound.peak_task_bytes,
        "polars_peak_bytes": whole.peak_bytes,
        "size": "of the issue" if size.rows >= 128_000_000 else "limited by this machine's disk and time",
    }
    counts = by_polars.ours[0].counts
    return [
        Line(
            "select: rule over metadata",
            "Polars on the whole in memory",
            by_polars.slowdown(),
            Target(2, "lower"),
            len(by_polars),
            counts,
            by_polars.seconds(),
            facts,
        ),
        Line(
            "select: rule over metadata, times faster",
            "DataComp's pandas way",
            by_pandas.speedup(),
            Target(5, "higher"),
            len(by_pandas),
            counts,
            by_pandas.seconds(),
        ),
    ]


def _timed(work: Callable[[Path], int], out: Path) -> Run:
    out.mkdir()
    begun = time.perf_counter()
    num_rows = work(out)
    seconds = time.perf_counter() - begun
    return Run(seconds, {"rows": num_rows, "kept": len(np.load(out / "sample_ids.npy"))})


def _config(wanted: int) -> SelectConfig:
    clauses = [{"basic": {"language": "any"}}, {"top": {"by": _SCORE, "count": wanted}}]
    return SelectConfig.model_validate({"rule": {"all": clauses}})


def _ours(engine_: Engine, inputs: dict[str, Artifact], wanted: int, out: Path) -> int:
    made = run_stage(SelectStage(_config(wanted)), out, "subset", engine_, inputs=inputs)
    assert made.manifest.counts is not None
    return made.manifest.counts.seen


def _alone(inputs: dict[str, Artifact], wanted: int, out: Path) -> int:
    with engine("in_process") as here:
        return _ours(here, inputs, wanted, out)


def _polars(pool: Artifact, wanted: int, out: Path) -> int:
    """All needed columns in memory; the k-th score is selected, not sorted for."""
    out.mkdir(exist_ok=True)
    rows = pl.read_parquet(paths(pool, "index/"), columns=["uid_hi", "uid_lo", "text", _WIDTH, _HEIGHT, _SCORE])
    threshold = rows[_SCORE].top_k(wanted).min()
    shorter, longer = pl.min_horizontal(_WIDTH, _HEIGHT), pl.max_horizontal(_WIDTH, _HEIGHT)
    kept = rows.filter(
        (pl.col(_SCORE) >= threshold)
        & (shorter >= 200)
        & (longer / shorter <= 3.0)
        & (pl.col("text").str.len_chars() > 5)
        & (pl.col("text").str.count_matches(r"\S+") > 2)
    ).sort("uid_hi", "uid_lo")
    np.save(out / "sample_ids.npy", to_records(kept["uid_hi"].to_numpy(), kept["uid_lo"].to_numpy()))
    return rows.height


def _pandas(files: list[Path], workers: Pool, out: Path) -> int:
    """Both of DataComp's filters as its baselines have them, a file a task of as many processes as there are cores."""
    basic = [uid for kept in workers.imap_unordered(_pandas_basic, files) for uid in kept]
    scores = pd.concat(workers.imap_unordered(_pandas_scores, files))
    threshold = np.sort(scores[_SCORE].to_numpy())[::-1][int(len(scores) * FRACTION)]
    best = set(scores["uid"][scores[_SCORE] >= threshold])
    kept = [(int(uid[:16], 16), int(uid[16:32], 16)) for uid in basic if uid in best]
    uids = np.array(kept, UID_DTYPE)
    uids.sort()
    np.save(out / "sample_ids.npy", uids)
    return len(scores)


def _pandas_basic(path: Path) -> list[str]:
    rows = pd.read_parquet(path, columns=["uid", "text", _WIDTH, _HEIGHT])
    long = rows["text"].apply(lambda text: len(text.split()) > 2 and len(text) > 5)
    shorter, longer = rows[[_WIDTH, _HEIGHT]].min(axis=1), rows[[_WIDTH, _HEIGHT]].max(axis=1)
    return rows["uid"][long & (shorter >= 200) & (longer / shorter <= 3.0)].tolist()


def _pandas_scores(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path, columns=["uid", _SCORE])


def _check_same_subsets(folder: Path) -> None:
    found = {path.parent.name: np.load(path) for path in sorted(folder.glob("*-*/sample_ids.npy"))}
    first = next(iter(found.values()))
    for name, uids in found.items():
        assert np.array_equal(uids, first), f"{name} keeps other samples than {next(iter(found))}"
