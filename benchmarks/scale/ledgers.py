"""Ledgers of any size, as a training of several ranks leaves them: every sample once an epoch, in shuffled batches."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.scale.artifacts import committed, put_all
from benchmarks.scale.draws import normal, shuffled, uniform
from benchmarks.scale.tables import is_good
from benchmarks.scale.uids import Uids
from pipeline.artifact import Artifact, ArtifactWriter, FileEntry
from stages.formats.ledger import LEDGER, part_stem

_NOISE, _OFFSET, _LOSS, _ORDER = 1, 2, 3, 4
_PART_ROWS = 1 << 20


def put_ledger(root: Path, uids: Uids, num_visits: int, *, batch_size: int = 4096, num_ranks: int = 2) -> Artifact:
    """The training artifact of `num_visits` epochs; the last batch of an epoch may be short.

    Scores say whether a sample is good, up to noise and an offset of each batch, which only its place within the batch
    undoes.
    """
    steps_an_epoch = -(-uids.num_samples // batch_size)
    num_steps = steps_an_epoch * num_visits
    steps_a_part = max(1, _PART_ROWS * num_ranks // batch_size)

    def put(writer: ArtifactWriter, number: int) -> FileEntry:
        first, rank_of_part = number // num_ranks * steps_a_part, number % num_ranks
        last = min(first + steps_a_part, num_steps) - 1
        step = np.arange(first, last + 1)
        epoch, batch = np.divmod(step, steps_an_epoch)
        size = np.minimum(batch_size, uids.num_samples - batch * batch_size)
        begin, end = size * rank_of_part // num_ranks, size * (rank_of_part + 1) // num_ranks
        count = end - begin
        within = np.arange(count.sum()) - (np.cumsum(count) - count - begin).repeat(count)
        place = (batch.repeat(count) * batch_size + within).astype(np.uint64)
        table = _rows_at(uids, epoch.repeat(count), step.repeat(count), place, batch_size)
        return writer.put_table_by_content(part_stem(first, last, rank_of_part), table)

    num_parts = -(-num_steps // steps_a_part) * num_ranks
    files = put_all(put, root, range(num_parts))
    num_rows = uids.num_samples * num_visits
    summary = {"method": "mimic", "epochs": num_visits, "steps": num_steps, "batch_size": batch_size}
    return committed(root, "training/mimic", files, summary, num_rows)


def _rows_at(
    uids: Uids,
    epoch: np.ndarray,
    step: np.ndarray,
    place: np.ndarray,
    batch_size: int,
) -> pa.Table:
    """Ledger rows of places in the epochs' orders."""
    seed, num_samples = uids.seed, uids.num_samples
    rank = np.empty(len(place), np.uint64)
    for number in np.unique(epoch):
        mine = epoch == number
        rank[mine] = shuffled(place[mine], num_samples, seed, _ORDER + int(number))
    visit_row = epoch.astype(np.uint64) * np.uint64(num_samples) + rank
    score = is_good(rank, seed) + normal(visit_row, seed, _NOISE) + 5 * normal(step.astype(np.uint64), seed, _OFFSET)
    columns = {
        "uid_hi": uids.hi(rank),
        "uid_lo": uids.lo(rank),
        "visit": epoch.astype(np.uint16),
        "step": step.astype(np.int32),
        "score": score.astype(np.float32),
        "weight": (2 * uniform(visit_row, seed, _NOISE) / batch_size).astype(np.float32),
        "loss": (3 - score / 10 + 0.1 * normal(visit_row, seed, _LOSS)).astype(np.float32),
    }
    return pa.table(columns, LEDGER)
