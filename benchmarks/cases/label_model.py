"""Snorkel's label model from counts: the same answer as Snorkel's, at a cost that does not grow with the pool.

Fit and prediction are timed from counted patterns on; counting is a pass over the votes and reported apart.
"""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from snorkel.labeling.model import LabelModel

from benchmarks.measure import Run, bootstrap, in_fresh_process, run_pairs
from benchmarks.record import Line, Target
from benchmarks.scale.tables import put_votes
from benchmarks.scale.uids import Uids
from benchmarks.workplace import engine, paths, scratch
from pipeline.artifact import Artifact
from pipeline.engine import Engine
from stages.aggregate import count_all
from stages.kernels.label_model import FitSettings, fit_label_model
from stages.kernels.patterns import VoteCounts, count_votes, pack

SECONDS, BYTES = 5.0, 1e9
"""What fit and prediction may take."""
POOL_ROWS = 128_000_000
_PRIOR = 0.4
_TOLERANCE = 1e-5
"""Snorkel predicts in float32."""


class _Size(NamedTuple):
    voters: tuple[int, ...]
    rows: int
    bits: int
    counting_pairs: int
    fits: int
    snorkel_rows: int
    snorkel_pairs: int


_SIZES = {
    "short": _Size((12,), 1_000_000, 1, 1, 1, 50_000, 1),
    "full": _Size((5, 12), POOL_ROWS, 6, 3, 10, 2_000_000, 1),
}


def measure(form: str) -> list[Line]:
    """Four lines a number of voters."""
    lines = []
    with engine() as ours:
        for num_voters in _SIZES[form].voters:
            with scratch() as folder:
                lines += _measure(_SIZES[form], num_voters, ours, folder)
    return lines


def _measure(size: _Size, num_voters: int, ours: Engine, folder: Path) -> list[Line]:
    votes = put_votes(folder / "votes", Uids(size.rows), size.bits, num_voters)
    rows = {"rows": size.rows, "voters": num_voters}
    tallies: list[VoteCounts] = []

    def count() -> Run:
        begun = time.perf_counter()
        tallies[:] = [count_all(ours, votes).votes]
        return Run(time.perf_counter() - begun, {"rows": tallies[0].rows})

    def polars() -> Run:
        begun = time.perf_counter()
        names = [voter["name"] for voter in votes.summary["voters"]]
        patterns = pl.scan_parquet(paths(votes)).select(names).group_by(names).len().collect()
        return Run(time.perf_counter() - begun, {"rows": int(patterns["len"].sum())})

    counting = run_pairs(count, polars, size.counting_pairs)
    patterns = np.arange(3**num_voters, dtype=np.uint64)  # all there can be, though not all occur
    runs = [in_fresh_process(_fit_and_predict, tallies[0], patterns)[1] for _ in range(size.fits)]
    seconds, peaks = [run.seconds for run in runs], [run.peak_bytes or 0 for run in runs]
    what = f"label model, {num_voters} voters"
    known = {**rows, "patterns": len(patterns)}
    facts = {"pool_rows_of_the_target": POOL_ROWS}
    return [
        Line(
            f"{what}: fit and predict from counts",
            f"{SECONDS:g} s",
            bootstrap([each / SECONDS for each in seconds]),
            Target(1, "lower"),
            size.fits,
            known,
            {"ours": float(np.median(seconds))},
            facts,
        ),
        Line(
            f"{what}: memory of fit and predict",
            f"{BYTES / 1e9:g} GB above idle",
            bootstrap([each / BYTES for each in peaks]),
            Target(1, "lower"),
            size.fits,
            known,
            facts={**facts, "peak_bytes": int(np.median(peaks))},
        ),
        Line(
            f"{what}: counting",
            "one-process Polars group_by",
            counting.slowdown(),
            None,
            size.counting_pairs,
            known,
            counting.seconds(),
        ),
        _against_snorkel(size, num_voters, what, votes, folder),
    ]


def _against_snorkel(size: _Size, num_voters: int, what: str, votes: Artifact, folder: Path) -> Line:
    """Both from a label matrix of the size that Snorkel can do, in processes of their own."""
    names = [voter["name"] for voter in votes.summary["voters"]]
    matrix = pl.scan_parquet(paths(votes)).select(names).head(size.snorkel_rows).collect().to_numpy()
    path = folder / "matrix.npy"
    np.save(path, matrix)
    answers: dict[str, NDArray[np.float64]] = {}

    def run(name: str, work: object) -> Run:
        answers[name], run = in_fresh_process(work, path)  # type: ignore[arg-type]
        return Run(run.seconds, {"rows": len(answers[name])}, run.peak_bytes)

    pairs = run_pairs(lambda: run("ours", _from_matrix), lambda: run("theirs", _snorkel), size.snorkel_pairs, warm_up=0)
    apart = float(np.abs(answers["ours"] - answers["theirs"]).max())
    assert apart < _TOLERANCE, f"probabilities are up to {apart} from Snorkel's"
    theirs, peak = pairs.seconds()["theirs"], int(np.median([run.peak_bytes for run in pairs.theirs]))
    stretch = POOL_ROWS / len(matrix)
    return Line(
        f"{what}: count, fit and predict, times faster",
        "Snorkel, at the size given",
        pairs.speedup(),
        None,
        size.snorkel_pairs,
        {"rows": len(matrix), "voters": num_voters},
        pairs.seconds(),
        {
            "largest_difference": apart,
            "snorkel_peak_bytes": peak,
            "snorkel_at_128M_rows": f"extrapolated: {theirs * stretch:.0f} s at most, {peak * stretch / 1e9:.0f} GB",
        },
    )


def _fit_and_predict(counts: VoteCounts, patterns: NDArray[np.uint64]) -> NDArray[np.float64]:
    return fit_label_model(counts, _PRIOR, FitSettings()).p_keep(patterns)


def _from_matrix(path: Path) -> NDArray[np.float64]:
    matrix = np.load(path)
    packed = pack([np.ascontiguousarray(column) for column in matrix.T])
    patterns, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    return _fit_and_predict(count_votes(patterns, counts, matrix.shape[1]), patterns)[inverse]


def _snorkel(path: Path) -> NDArray[np.float64]:
    matrix, settings = np.load(path), FitSettings()
    model = LabelModel(cardinality=2, verbose=False)
    model.fit(
        matrix,
        class_balance=[1 - _PRIOR, _PRIOR],
        progress_bar=False,
        n_epochs=settings.steps,
        lr=settings.learning_rate,
        l2=settings.l2,
        prec_init=settings.initial_precision,
        optimizer="adam",
        seed=settings.seed,
    )
    return np.asarray(model.predict_proba(matrix)[:, 1], np.float64)
