"""The verified samples of a pool, from a list of uids: what a reference is tuned on."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.artifact import Artifact, Counts
from pipeline.config_base import Config
from pipeline.errors import UserError
from pipeline.schema import POOL, SUBSET, Schema
from pipeline.stage import External, ExternalFiles, Size, Stage, StageContext, StagePlan, StageResult
from pipeline.storage import Storage
from stages.formats.npy import SubsetFile, subset_bytes
from stages.formats.uid_set import UidSet, read_uid_set
from stages.kernels.buckets import bucket_path
from stages.kernels.uid import bucket_of

NOT_USABLE = "no usable sample of the pool"
Halves = NDArray[np.uint64]


@dataclass(frozen=True)
class ListedUids:
    """The listed uids of one bucket."""

    bucket: int
    hi: Halves
    lo: Halves


class TrustedStage(Stage[Config]):
    """Which listed samples the pool has; runs right behind the pool, so that a list of another pool costs no training.

    The driver holds 16 bytes a listed uid, a task one bucket of the pool's uids.
    """

    takes: ClassVar[Mapping[str, Schema]] = {"pool": POOL}
    gives: ClassVar[Schema] = SUBSET

    def __init__(self, config: Config, *, listed: str) -> None:
        """`listed`: subset file of the verified samples."""
        super().__init__(config)
        self._listed = listed

    def external(self) -> Mapping[str, External]:
        """The list."""
        return {"listed": External(self._listed, missing="check `reference.trusted` in the config")}

    def preflight(self, external: Mapping[str, ExternalFiles], storage: Storage) -> None:
        """A subset file in the right format, with uids in it."""
        for stat in external["listed"].files:
            if SubsetFile.open(storage, stat.uri).num_records == 0:
                raise UserError(
                    "there is no sample to train on",
                    where=stat.uri,
                    expected="uids of samples",
                    found="a file of 0 uids",
                    next_step="list the trusted samples in `reference.trusted`",
                )

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """How many are listed is known once the file is read."""
        del inputs, rates
        return StagePlan(Size(0, 0), note="as many as are listed")

    def run(self, context: StageContext) -> StageResult:
        """Look the listed uids up, bucket by bucket.

        Raises:
            UserError: none of them is in the pool.
        """
        pool = context.inputs["pool"]
        files = context.external["listed"]
        listed = read_uid_set(context.storage, [stat.uri for stat in files.files])
        items = by_bucket(listed, int(pool.summary["bucket_bits"]))
        found = context.engine.map(partial(_found, pool), items, name="trusted samples", unit="buckets")
        hi, lo = (np.concatenate([np.empty(0, np.uint64), *(part[half] for part in found)]) for half in (0, 1))
        if len(hi) == 0:
            raise UserError(
                "no trusted sample is in the pool",
                where=files.uri,
                expected=f"uids among the {int(pool.summary['usable']):,} usable samples of the pool",
                found=f"{len(listed):,} uids, none of them there",
                next_step="list samples of this pool in `reference.trusted`",
            )
        outside = len(listed) - len(hi)
        if outside:
            context.reporter.warn(
                f"reference.trusted: {outside:,} of {len(listed):,} uids are no usable samples of the pool: left out"
            )
        entry = context.output.put_bytes("sample_ids.npy", subset_bytes(hi, lo), rows=len(hi))
        counts = Counts(seen=len(listed), out=len(hi), dropped={NOT_USABLE: outside})
        return StageResult((entry,), {"listed": len(listed), "kept": len(hi)}, counts)


def by_bucket(uids: UidSet, bits: int) -> list[ListedUids]:
    """A sorted set, cut at the uid buckets; buckets without any are left out."""
    bucket = bucket_of(uids.hi, bits)
    starts = np.flatnonzero(np.diff(bucket, prepend=-1)).tolist()
    edges = itertools.pairwise([*starts, len(bucket)])
    return [ListedUids(int(bucket[start]), uids.hi[start:stop], uids.lo[start:stop]) for start, stop in edges]


def _found(pool: Artifact, item: ListedUids) -> tuple[Halves, Halves]:
    index = pool.read_table(bucket_path(item.bucket, "index"), ["uid_hi", "uid_lo"])
    usable = UidSet(index["uid_hi"].to_numpy(), index["uid_lo"].to_numpy())
    inside = usable.contains(item.hi, item.lo)
    return item.hi[inside], item.lo[inside]
