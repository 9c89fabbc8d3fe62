"""The ledger of a training: what each rank scored, in parts that cover a stretch of steps."""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.artifact import FileEntry, entries_rows
from pipeline.errors import RunError
from pipeline.schema import SCORES

LEDGER = pa.schema([*SCORES.columns.items(), ("weight", pa.float32()), ("loss", pa.float32())])
"""One row a scored sample and visit, in no order that readers may rely on."""

PREFIX = "ledger/"
_NAME = re.compile(r"ledger/steps-(\d+)-(\d+)/rank-(\d+)-[0-9a-f]+\.parquet")


def part_stem(first_step: int, last_step: int, rank: int) -> str:
    """Name, but for the content's digest, of the part of one rank for the steps `first_step..last_step`."""
    return f"{PREFIX}steps-{first_step:09d}-{last_step:09d}/rank-{rank:05d}"


@dataclass(frozen=True)
class Stretch:
    """All ranks' parts for the same steps."""

    first_step: int
    last_step: int
    """Inclusive."""
    parts: tuple[FileEntry, ...]

    @property
    def num_steps(self) -> int:
        """Steps covered."""
        return self.last_step - self.first_step + 1

    @property
    def rows(self) -> int:
        """Scored samples in all parts."""
        return entries_rows(self.parts)


@dataclass(frozen=True)
class LedgerPartition:
    """A stretch of steps that one task holds in memory, and the parts that have rows of it."""

    first_step: int
    last_step: int
    """Inclusive."""
    paths: tuple[str, ...]
    rows: int
    """Estimated, for progress."""


def stretches(entries: Iterable[FileEntry], where: str) -> list[Stretch]:
    """The parts by the steps that they cover, ascending.

    Raises:
        RunError: a name that is no ledger part's, one rank twice for the same steps, ranks missing, or steps that
            overlap or leave a gap: rows would be counted twice, or lost.
    """
    by_steps: dict[tuple[int, int], dict[int, FileEntry]] = {}
    for entry in entries:
        match = _NAME.fullmatch(entry.path)
        if match is None:
            raise RunError("not a part of a ledger", where=f"{where}/{entry.path}", expected=_NAME.pattern)
        first, last, rank = map(int, match.groups())
        ranks = by_steps.setdefault((first, last), {})
        if rank in ranks:
            raise _damaged(
                where, f"one part of rank {rank} for steps {first}..{last}", f"{ranks[rank].path}, {entry.path}"
            )
        ranks[rank] = entry
    found = [
        Stretch(first, last, tuple(part for _, part in sorted(ranks.items())))
        for (first, last), ranks in sorted(by_steps.items())
    ]
    for (first, last), ranks in by_steps.items():
        if sorted(ranks) != list(range(len(ranks))):
            raise _damaged(where, f"parts of all ranks for steps {first}..{last}", f"ranks {sorted(ranks)}")
    for before, after in itertools.pairwise(found):
        if after.first_step != before.last_step + 1:
            raise _damaged(
                where,
                f"steps from {before.last_step + 1} on behind {before.first_step}..{before.last_step}",
                f"steps {after.first_step}..{after.last_step}",
            )
    return found


def partitions(found: Sequence[Stretch], max_rows: int) -> list[LedgerPartition]:
    """Cut the ledger into runs of whole steps of about `max_rows` rows: short stretches together, long ones apart."""
    result: list[LedgerPartition] = []
    for stretch in found:
        pieces = min(stretch.num_steps, max(1, -(-stretch.rows // max_rows)))
        paths = tuple(part.path for part in stretch.parts)
        if pieces == 1 and result and result[-1].rows + stretch.rows <= max_rows:
            last = result.pop()
            result.append(
                LedgerPartition(last.first_step, stretch.last_step, last.paths + paths, last.rows + stretch.rows)
            )
            continue
        cuts = [stretch.first_step + stretch.num_steps * piece // pieces for piece in range(pieces + 1)]
        result += [
            LedgerPartition(first, stop - 1, paths, stretch.rows * (stop - first) // stretch.num_steps)
            for first, stop in itertools.pairwise(cuts)
        ]
    return result


def _damaged(where: str, expected: str, found: str) -> RunError:
    return RunError(
        "the training's ledger is not whole",
        where=where,
        expected=expected,
        found=found,
        next_step="this is a defect of the training stage, not of the input: please report it with the run log",
    )
