"""Between the passes, in pools of many terabytes: the runs of several tasks become one, so that buckets find few.

Without it the buckets of a pool of 12.8 billion pairs would ask for two ranges of each of fifty thousand runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from pipeline.artifact import ArtifactWriter, canonical_json, sha256_hex
from pipeline.engine import Engine
from pipeline.storage import Storage, join
from stages.pool.runs import MOST_RUNS, Run, merge_runs

WORK = "work"
"""Folder of private files inside the artifact."""


@dataclass(frozen=True)
class MergeItem:
    """Runs for one task."""

    runs: tuple[Run, ...]

    @property
    def path(self) -> str:
        """Of the merged run: named by those that it is made of, whose names tell their content."""
        return f"{WORK}/merged-{sha256_hex(canonical_json([list(run) for run in self.runs]))[:16]}.run"


def planned_merges(num_runs: int, most: int = MOST_RUNS) -> int:
    """Runs that there will be after merging; as many as before where they are few."""
    return -(-num_runs // -(-num_runs // most)) if num_runs > most else num_runs


def merged(
    engine: Engine,
    runs: Sequence[Run],
    *,
    storage: Storage,
    writer: ArtifactWriter,
    schema: pa.Schema,
    to_bits: int,
    further: Sequence[str],
    name: str,
    most: int = MOST_RUNS,
) -> list[Run]:
    """The runs to read from: these, or where there are more than `most`, what they were merged to."""
    if len(runs) <= most:
        return list(runs)
    together = -(-len(runs) // most)
    items = [MergeItem(tuple(runs[first : first + together])) for first in range(0, len(runs), together)]
    task = partial(_merge, storage=storage, writer=writer, schema=schema, to_bits=to_bits, further=tuple(further))
    return engine.map(task, items, name=name, unit="runs", weigh=_num_runs)


def _merge(
    item: MergeItem,
    *,
    storage: Storage,
    writer: ArtifactWriter,
    schema: pa.Schema,
    to_bits: int,
    further: Sequence[str],
) -> Run:
    uri = join(writer.root, item.path)
    if not storage.exists(uri):
        runs = [storage.read_bytes(run.uri) for run in item.runs]
        bits = [run.bits for run in item.runs]
        writer.put_bytes(item.path, merge_runs(runs, schema, bits=bits, to_bits=to_bits, further=further))
    return Run(uri, to_bits)


def _num_runs(item: MergeItem) -> int:
    return len(item.runs)
