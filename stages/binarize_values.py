"""The values that voters vote by, bucket by bucket: keyed by uid, or by the place of their row.

Tables are sorted by uid, so a row's place says as much of its order as the uid does, and takes no reading.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import Artifact
from pipeline.errors import RunError
from stages.binarize_config import Voter
from stages.kernels.buckets import bucket_path
from stages.kernels.radix import Cut, Keys, ascending, order_key
from stages.kernels.scale import Scale
from stages.kernels.score_values import COLUMNS, by_sample, scaled_scores

PLACED_WIDTHS = (32, 64)
"""Bits of the keys of placed values: score, place."""
_UID = ("uid_hi", "uid_lo")
_ROW_BITS = 32
_MOST = (1 << 64) - 1


@dataclass(frozen=True)
class VoterScores:
    """One value a sample, in uid order."""

    uid_hi: NDArray[np.uint64]
    uid_lo: NDArray[np.uint64]
    values: NDArray[np.float32]

    @property
    def keys(self) -> Keys:
        """By value, descending; then by uid, ascending."""
        return Keys((order_key(self.values), ascending(self.uid_hi), ascending(self.uid_lo)))


@dataclass(frozen=True)
class PlacedScores:
    """One value a sample with its place: bucket and row of the table, which ascend as the uids do."""

    values: NDArray[np.float32]
    place: NDArray[np.uint64]

    @property
    def keys(self) -> Keys:
        """By value, descending; then by place, ascending."""
        return Keys((order_key(self.values), ascending(self.place)))


def read_voters(
    scores: Mapping[str, Artifact], voters: Sequence[Voter], bucket: int
) -> Iterator[tuple[int, VoterScores]]:
    """Values of each voter in one bucket, with the voter's number; each table is read once.

    Raises:
        RunError: a score is NaN or infinite, or a sample has two scores of one visit.
    """
    for index, table, rows, values in _chosen(scores, voters, bucket, _UID):
        uid_hi, uid_lo = (table[name].to_numpy()[rows] for name in _UID)
        found = VoterScores(uid_hi, uid_lo, values)
        _refuse_repeats(found, scores[voters[index].selector].uri(bucket_path(bucket)))
        yield index, found


def _chosen(
    scores: Mapping[str, Artifact], voters: Sequence[Voter], bucket: int, also: Sequence[str] = ()
) -> Iterator[tuple[int, pa.Table, NDArray[np.int64], NDArray[np.float32]]]:
    """Number, table, rows and values of each voter; each table is read once, uids only for what is over all visits."""
    for selector in dict.fromkeys(voter.selector for voter in voters):
        own = [(index, voter) for index, voter in enumerate(voters) if voter.selector == selector]
        needed = {"visit", *also, *(() if all(isinstance(voter.visit, int) for _, voter in own) else _UID)}
        columns = {*needed, *(name for _, voter in own for name in COLUMNS[voter.scale])}
        # In one piece, a column becomes an array without a copy, as often as voters ask for it.
        table = scores[selector].read_table(bucket_path(bucket), sorted(columns)).combine_chunks()
        pa.default_memory_pool().release_unused()  # reading held twice the table; numpy cannot use what Arrow keeps
        scaled: dict[Scale, NDArray[np.float32]] = {}
        for index, voter in own:
            if voter.scale not in scaled:
                try:
                    scaled[voter.scale] = scaled_scores(table, voter.scale)
                except ValueError as error:
                    where = scores[selector].uri(bucket_path(bucket))
                    raise RunError("a score table holds what cannot be ranked", where=where, found=error) from error
            yield index, table, *by_sample(table, scaled[voter.scale], voter.visit)


def placed_voters(
    scores: Mapping[str, Artifact], voters: Sequence[Voter], bucket: int
) -> Iterator[tuple[int, PlacedScores]]:
    """As `read_voters`, but for uids; that they ascend is left to whoever reads them.

    Raises:
        RunError: a score is NaN or infinite.
    """
    for index, _, rows, values in _chosen(scores, voters, bucket):
        yield index, PlacedScores(values, rows.astype(np.uint64) | np.uint64(bucket << _ROW_BITS))


def cut_by_uid(cut: Cut, voter: Voter, scores: Mapping[str, Artifact], num_buckets: int) -> Cut:
    """The cut of a voter's scores by score and uid, from one by score and place.

    Args:
        cut: of placed scores; its place may be that of no row, behind the last one that is kept.
        voter: whose scores they are.
        scores: tables by selector.
        num_buckets: of the tables.
    """
    if cut.threshold is None:
        return cut
    value, inverted = cut.threshold
    bucket, row = divmod(_MOST - inverted, 1 << _ROW_BITS)
    if bucket >= num_buckets:
        return Cut((value, 0, 0))
    ((_, table, rows, _),) = _chosen(scores, [voter], bucket, _UID)
    last = int(np.searchsorted(rows, row, "right")) - 1
    if last < 0:  # all of this bucket is behind the cut
        return Cut((value, _MOST - (bucket << (64 - (num_buckets - 1).bit_length())), _MOST))
    hi, lo = (table[name][int(rows[last])].as_py() for name in _UID)
    return Cut((value, _MOST - hi, _MOST - lo))


def _refuse_repeats(found: VoterScores, where: str) -> None:
    ascends = (found.uid_hi[1:] > found.uid_hi[:-1]) | (
        (found.uid_hi[1:] == found.uid_hi[:-1]) & (found.uid_lo[1:] > found.uid_lo[:-1])
    )
    if not ascends.all():
        row = int(np.argmin(ascends)) + 1
        raise RunError(
            "a score table is not sorted by uid and visit, or scores a visit twice",
            where=where,
            found=f"uid {int(found.uid_hi[row]):016x}{int(found.uid_lo[row]):016x}",
        )
