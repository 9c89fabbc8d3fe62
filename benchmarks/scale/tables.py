"""Pools, score tables and votes of any size, cut at uid-prefix buckets as the stages cut them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.scale.artifacts import committed, put_buckets
from benchmarks.scale.draws import Rows, integers, normal, rows, uniform
from benchmarks.scale.uids import Uids
from pipeline.artifact import Artifact
from pipeline.schema import POOL, SCORES
from stages.kernels.patterns import ABSTAIN

Columns = Mapping[str, pa.Array | NDArray[np.generic]]

_GOOD_SHARE = 0.4
_ABSTAIN_SHARE = 0.15
_TIED_SHARE = 0.05
_GOOD, _TIED, _SCORE, _VOTE = 1, 2, 1000, 2000


def is_good(rank: Rows, seed: int) -> NDArray[np.bool_]:
    """[n] whether a sample is worth keeping: what generated scores and votes are noisy views of."""
    return uniform(rank, seed, _GOOD) < _GOOD_SHARE


def score_values(rank: Rows, seed: int, visit: int = 0) -> NDArray[np.float32]:
    """[n] scores; one in twenty lies on a grid, where many are equal, zeros of both signs among them."""
    values = is_good(rank, seed) + normal(rank, seed, _SCORE + visit)
    tied = uniform(rank, seed, _TIED) < _TIED_SHARE
    return np.where(tied, np.round(values * 16) / 16, values).astype(np.float32)


def vote_values(rank: Rows, seed: int, voter: int) -> NDArray[np.int8]:
    """[n] keep 1, drop 0, abstain -1; voters are right from 60 to 80 times in a hundred."""
    draw = uniform(rank, seed, _VOTE + voter)
    right = draw < 0.6 + 0.2 * ((voter * 0.37) % 1)
    votes = (is_good(rank, seed) == right).astype(np.int8)
    votes[integers(rank, 100, seed, _VOTE + 500 + voter) < 100 * _ABSTAIN_SHARE] = ABSTAIN
    return votes


def put_pool(root: Path, uids: Uids, num_bits: int, metadata: Callable[[Rows], Columns] | None = None) -> Artifact:
    """A pool's index; what says where a sample lies is constant, as the stages behind it do not read it."""
    further = metadata or _no_columns

    def bucket(number: int) -> pa.Table:
        rank = uids.bucket(number, num_bits)
        own = {"uid_hi": uids.hi(rank), "uid_lo": uids.lo(rank)}
        constant = {
            name: pa.repeat(pa.scalar("jpg" if kind == pa.string() else 0, kind), len(rank))
            for name, kind in POOL.columns.items()
            if name not in own
        }
        return pa.table({**own, **constant, **further(rank)})

    files = put_buckets(root, num_bits, bucket, "index")
    num_rows = uids.num_samples
    summary = {
        "samples": num_rows,
        "usable": num_rows,
        "bucket_bits": num_bits,
        "metadata_columns": {name: str(pa.array(column).type) for name, column in further(rows(0, 1)).items()},
        "without_metadata": 0,
    }
    return committed(root, "pool", files, summary, num_rows)


def put_scores(root: Path, uids: Uids, num_bits: int, num_visits: int = 1) -> Artifact:
    """The score table of a selector whose scores belong to no batch."""

    def bucket(number: int) -> pa.Table:
        rank = uids.bucket(number, num_bits)
        visit = np.arange(num_visits, dtype=np.uint16)
        score = np.stack([score_values(rank, uids.seed, number) for number in range(num_visits)], axis=1)
        columns = {
            "uid_hi": uids.hi(rank).repeat(num_visits),
            "uid_lo": uids.lo(rank).repeat(num_visits),
            "visit": np.tile(visit, len(rank)),
            "step": np.full(score.size, -1, np.int32),
            "score": score.ravel(),
        }
        return pa.table(columns, pa.schema(list(SCORES.columns.items())))

    num_rows = uids.num_samples * num_visits
    summary = {
        "selector": root.name,
        "visits": num_visits,
        "rows": num_rows,
        "scored": uids.num_samples,
        "bucket_bits": num_bits,
        "batched": False,
    }
    return committed(root, f"scores/{root.name}", put_buckets(root, num_bits, bucket), summary, num_rows)


def put_votes(root: Path, uids: Uids, num_bits: int, num_voters: int) -> Artifact:
    """Votes of selectors that keep what they see of the truth."""
    names = [f"s{voter:02d}__0" for voter in range(num_voters)]

    def bucket(number: int) -> pa.Table:
        rank = uids.bucket(number, num_bits)
        votes = {name: vote_values(rank, uids.seed, voter) for voter, name in enumerate(names)}
        return pa.table({"uid_hi": uids.hi(rank), "uid_lo": uids.lo(rank), **votes})

    voters = [
        {"name": name, "selector": name[:-3], "visit": 0, "method": "threshold", "fraction": None, "scale": "raw"}
        for name in names
    ]
    summary = {"voters": voters, "rows": uids.num_samples, "bucket_bits": num_bits}
    return committed(root, "votes", put_buckets(root, num_bits, bucket), summary, uids.num_samples)


def _no_columns(rank: Rows) -> Columns:
    del rank
    return {}
