"""What was added to a pool since an earlier run: which samples, and a pass over them with the stored weights.

New are the samples that the earlier pool did not have, or had in a shard with other bytes. Half of each batch of the
pass are samples that were there before, drawn by a hash of their uid, so that a new one is ranked against the pool and
not against those that came with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import Artifact, ArtifactWriter, Counts, FileEntry
from pipeline.schema import POOL, SUBSET, Schema
from pipeline.stage import Size, Stage, StageContext, StagePlan, StageResult
from pipeline.traffic import writes
from stages.formats.npy import subset_bytes
from stages.formats.recut import rows_of_bucket
from stages.formats.uid_set import UidSet
from stages.kernels.buckets import UID_BYTES, bucket_path, buckets_of_size, planned_pass
from stages.kernels.uid import hash_uniform, positions
from stages.train.config import TrainConfig
from stages.train.stage import TrainStage

Halves = NDArray[np.uint64]
ADDED = "added"
"""Folder of tables with the uids of new samples, by bucket."""
GONE, COMPANIONS = "left_the_pool", "companions"
_UID = ["uid_hi", "uid_lo"]


class Compared(NamedTuple):
    """One uid bucket of the pool against the earlier one."""

    added: FileEntry
    """Uids of new samples."""
    hi: Halves
    lo: Halves
    num_carried: int
    num_gone: int


class AddedStage(Stage[TrainConfig]):
    """Which samples are new, and which of the others keep them company in the batches of the score pass."""

    takes: ClassVar[Mapping[str, Schema]] = {"pool": POOL, "earlier": POOL}
    gives: ClassVar[Schema] = SUBSET

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """Two passes over the uids of both pools."""
        pool, earlier = inputs["pool"], inputs["earlier"]
        added = max(0, pool.rows - earlier.rows)
        return StagePlan(
            Size(2 * added, 3 * UID_BYTES * added),
            partitions=2 * buckets_of_size(pool),
            peak_task_bytes=pool.rows * 100 // buckets_of_size(pool),
            cpu_hours=pool.rows / rates["select_rows_per_second_per_cpu"] / 3600,
            traffic=planned_pass(pool, UID_BYTES).times(2)
            + planned_pass(earlier, UID_BYTES)
            + writes(1 + buckets_of_size(pool)),
            driver_bytes=4 * UID_BYTES * added,
            note=f"{added:,} samples more than the earlier run's pool",
        )

    def run(self, context: StageContext) -> StageResult:
        """Compare the pools bucket by bucket, then draw the companions."""
        pool, earlier = context.inputs["pool"], context.inputs["earlier"]
        buckets = range(1 << int(pool.summary["bucket_bits"]))
        compare = partial(_compare, pool=pool, earlier=earlier, shards=_Shards.of(pool, earlier), writer=context.output)
        found = context.engine.map(compare, buckets, name="new samples", unit="buckets")
        added, carried = sum(len(part.hi) for part in found), sum(part.num_carried for part in found)
        halves = [(part.hi, part.lo) for part in found]
        if added and carried:
            share = min(1.0, max(added, self.config.batch_size - added) / carried)
            draw = partial(_companions, pool=pool, share=share, seed=context.seed)
            items = [_Drawn(bucket, part.hi, part.lo) for bucket, part in zip(buckets, found, strict=True)]
            halves += context.engine.map(draw, items, name="companions", unit="buckets")
        hi, lo = (np.concatenate([np.empty(0, np.uint64), *(part[half] for part in halves)]) for half in (0, 1))
        chosen = UidSet.of(hi, lo)
        file = context.output.put_bytes("sample_ids.npy", subset_bytes(chosen.hi, chosen.lo), rows=len(chosen))
        summary = {
            "kept": len(chosen),
            "added": added,
            COMPANIONS: len(chosen) - added,
            "carried": carried,
            GONE: sum(part.num_gone for part in found),
            "bucket_bits": int(pool.summary["bucket_bits"]),
        }
        counts = Counts(added + carried, len(chosen), {"carried_over": carried - (len(chosen) - added)})
        context.reporter.say(f"{added:,} new samples will be scored by the stored model, {carried:,} keep their scores")
        return StageResult((file, *(part.added for part in found)), summary, counts)


@dataclass(frozen=True)
class _Shards:
    """Numbers that are equal for shards of equal bytes."""

    now: NDArray[np.int64]
    """[shards of the pool]"""
    before: NDArray[np.int64]
    """[shards of the earlier pool]"""

    @classmethod
    def of(cls, pool: Artifact, earlier: Artifact) -> "_Shards":
        known: dict[str, int] = {}
        numbers = []
        for artifact in (pool, earlier):
            table = artifact.read_table("shards.parquet", ["shard", "sha256"])
            column = np.full(table.num_rows, -1, np.int64)  # shards are numbered as they stand there
            for shard, sha256 in zip(table["shard"].to_pylist(), table["sha256"].to_pylist(), strict=True):
                column[shard] = known.setdefault(sha256, len(known))
            numbers.append(column)
        return cls(*numbers)


class _Drawn(NamedTuple):
    bucket: int
    added_hi: Halves
    added_lo: Halves


def _compare(bucket: int, *, pool: Artifact, earlier: Artifact, shards: _Shards, writer: ArtifactWriter) -> Compared:
    """New samples of a bucket: those that the earlier pool has not, or has in a shard with other bytes."""
    bits = int(pool.summary["bucket_bits"])
    columns = [*_UID, "shard"]
    now = pool.read_table(bucket_path(bucket, "index"), columns)
    before = rows_of_bucket(earlier, "index", bucket, bits, columns)
    row = positions(*_halves(before), *_halves(now))
    place = shards.before[before["shard"].to_numpy()[row]] if before.num_rows else np.full(now.num_rows, -1)
    carried = (row >= 0) & (place == shards.now[now["shard"].to_numpy()])
    added = now.filter(pa.array(~carried)).select(_UID)
    file = writer.put_table(bucket_path(bucket, ADDED), added)
    num_carried = int(carried.sum())
    return Compared(file, *_halves(added), num_carried, before.num_rows - num_carried)


def _companions(item: _Drawn, *, pool: Artifact, share: float, seed: int) -> tuple[Halves, Halves]:
    """A share of the samples of a bucket that are not new."""
    hi, lo = _halves(pool.read_table(bucket_path(item.bucket, "index"), _UID))
    chosen = (hash_uniform(hi, lo, seed) < share) & (positions(item.added_hi, item.added_lo, hi, lo) < 0)
    return hi[chosen], lo[chosen]


class ScorePassStage(TrainStage):
    """The pass over new samples with the stored weights; nothing to do where there are none."""

    def run(self, context: StageContext) -> StageResult:
        """See `TrainStage`."""
        if context.inputs["subset"].summary["added"] == 0:
            return StageResult((), {"method": "score", "epochs": 0, "steps": 0, "samples": 0, "samples_seen": 0})
        return super().run(context)


def _halves(table: pa.Table) -> tuple[Halves, Halves]:
    return table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy()
