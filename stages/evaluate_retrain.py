"""A random subset as large as the kept one: what the filter is measured against."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.artifact import Artifact, Counts
from pipeline.config_base import Config
from pipeline.errors import UserError
from pipeline.schema import POOL, SUBSET, Schema
from pipeline.stage import Size, Stage, StageContext, StagePlan, StageResult
from pipeline.traffic import writes
from stages.formats.npy import subset_bytes
from stages.kernels.buckets import UID_BYTES, bucket_groups, bucket_path, buckets_of_size, planned_pass
from stages.kernels.radix import NO_ROWS, Cut, Histogram, Keys, Request, Search, candidates, histogram

U64 = NDArray[np.uint64]
_WIDTHS = (64, 64, 64)
_GROUPS = 64
"""Tasks that count priorities, at most: each leaves a histogram on the driver."""
_HISTOGRAM_BYTES = 10 << 16


class RandomSubsetStage(Stage[Config]):
    """Draws as many samples of the pool as were kept, each as likely as the other.

    Every uid has a priority that depends on it and the seed alone; those with the highest are drawn. So neither the
    pool's buckets nor the number of tasks have a say.
    """

    takes: ClassVar[Mapping[str, Schema]] = {"pool": POOL, "subset": SUBSET}
    gives: ClassVar[Schema] = SUBSET

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """Sixteen bytes for each uid that is drawn; four passes over the pool's uids."""
        kept, pool = inputs["subset"].rows, inputs["pool"]
        buckets = buckets_of_size(pool)
        groups = min(buckets, _GROUPS)
        return StagePlan(
            Size(kept, UID_BYTES * kept),
            partitions=3 * groups + buckets,
            peak_task_bytes=pool.rows * 60 // buckets,
            cpu_hours=pool.rows / rates["select_rows_per_second_per_cpu"] / 3600,
            traffic=planned_pass(pool, UID_BYTES).times(4) + writes(1),
            driver_bytes=3 * UID_BYTES * kept + groups * _HISTOGRAM_BYTES,
        )

    def run(self, context: StageContext) -> StageResult:
        """Find the lowest priority that is drawn, then collect the uids above it, bucket by bucket."""
        pool, wanted = context.inputs["pool"], int(context.inputs["subset"].summary["kept"])
        if wanted == 0:
            raise UserError("nothing was kept, so there is nothing to compare with", where="evaluate.retrain")
        buckets = range(1 << int(pool.summary["bucket_bits"]))
        cut = _find_cut(context, pool, buckets, wanted)
        drawn = context.engine.map(
            partial(_drawn, pool, context.seed, cut), buckets, name="evaluate: random subset", unit="buckets"
        )
        hi, lo = (np.concatenate([part[half] for part in drawn]) for half in (0, 1))
        entry = context.output.put_bytes("sample_ids.npy", subset_bytes(hi, lo), rows=len(hi))
        samples = sum(file.rows for file in pool.files("index/"))
        counts = Counts(samples, len(hi), {"not_drawn": samples - len(hi)})
        return StageResult((entry,), {"kept": len(hi), "dropped": dict(counts.dropped), "rule": "random"}, counts)


def priorities(hi: U64, lo: U64, seed: int) -> U64:
    """Random-looking priorities of uids, [n]: a finaliser of strong avalanche over both halves and the seed."""
    with np.errstate(over="ignore"):
        mixed = _finalise(hi + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF))
        return _finalise(mixed ^ _finalise(lo + np.uint64(0xD1B54A32D192ED03)))


def _finalise(values: U64) -> U64:
    """Two rounds of multiply and xor-shift (the constants of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _find_cut(context: StageContext, pool: Artifact, buckets: Sequence[int], wanted: int) -> Cut:
    search = Search(_WIDTHS, wanted)
    groups = bucket_groups(len(buckets), _GROUPS)
    while search.cut is None:
        answer = partial(_answer, pool, context.seed, search.request())
        found = context.engine.map(answer, groups, name="evaluate: priorities", unit="buckets", weigh=len)
        if search.request().collect:
            search.collect([keys for part in found if isinstance(part, list) for keys in part])
        else:
            search.feed(sum((part for part in found if isinstance(part, Histogram)), NO_ROWS))
    return search.cut


def _answer(pool: Artifact, seed: int, request: Request, buckets: Sequence[int]) -> Histogram | list[Keys]:
    """Of some buckets: counts of a digit, or the candidates."""
    keys = (_keys(*_uids(pool, bucket), seed) for bucket in buckets)
    if request.collect:
        return [candidates(found, request) for found in keys]
    return sum((histogram(found, request) for found in keys), NO_ROWS)


def _drawn(pool: Artifact, seed: int, cut: Cut, bucket: int) -> tuple[U64, U64]:
    hi, lo = _uids(pool, bucket)
    kept = cut.keeps(_keys(hi, lo, seed))
    return hi[kept], lo[kept]


def _keys(hi: U64, lo: U64, seed: int) -> Keys:
    return Keys((priorities(hi, lo, seed), hi, lo))


def _uids(pool: Artifact, bucket: int) -> tuple[U64, U64]:
    table = pool.read_table(bucket_path(bucket, "index"), ["uid_hi", "uid_lo"])
    return table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy()
