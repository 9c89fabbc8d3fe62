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
from stages.pool.runs import MOST_RUNS, merge_runs
from stages.pool.scan_task import WORK


@dataclass(frozen=True)
class MergeItem:
    """Runs for one task."""

    paths: tuple[str, ...]

    @property
    def path(self) -> str:
        """Of the merged run: named by those that it is made of, whose names tell their content."""
        return f"{WORK}/merged-{sha256_hex(canonical_json(list(self.paths)))[:16]}.run"


def planned_merges(num_runs: int, most: int = MOST_RUNS) -> int:
    """Runs that there will be after merging; as many as before where they are few."""
    return -(-num_runs // -(-num_runs // most)) if num_runs > most else num_runs


def merged(
    engine: Engine,
    paths: Sequence[str],
    *,
    storage: Storage,
    writer: ArtifactWriter,
    schema: pa.Schema,
    bits: int,
    to_bits: int,
    further: Sequence[str],
    name: str,
    most: int = MOST_RUNS,
) -> list[str]:
    """Paths of the runs to read from: these, or where there are more than `most`, what they were merged to."""
    if len(paths) <= most:
        return list(paths)
    together = -(-len(paths) // most)
    items = [MergeItem(tuple(paths[first : first + together])) for first in range(0, len(paths), together)]
    task = partial(
        _merge, storage=storage, writer=writer, schema=schema, bits=bits, to_bits=to_bits, further=tuple(further)
    )
    return engine.map(task, items, name=name, unit="runs", weigh=_num_runs)


def _merge(
    item: MergeItem,
    *,
    storage: Storage,
    writer: ArtifactWriter,
    schema: pa.Schema,
    bits: int,
    to_bits: int,
    further: Sequence[str],
) -> str:
    if not storage.exists(join(writer.root, item.path)):
        runs = [storage.read_bytes(join(writer.root, path)) for path in item.paths]
        writer.put_bytes(item.path, merge_runs(runs, schema, bits=bits, to_bits=to_bits, further=further))
    return item.path


def _num_runs(item: MergeItem) -> int:
    return len(item.paths)
