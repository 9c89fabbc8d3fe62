"""Whether pool, subset and shards account for the same samples, counted from their rows and bytes alone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import Artifact
from pipeline.errors import GradsieveError
from pipeline.progress import Reporter
from pipeline.storage import Storage
from stages import verify_tables
from stages.formats.datacomp import SampleError, sample_parts
from stages.formats.npy import read_subset
from stages.formats.tar import ShardReader
from stages.kernels.uid import UID_DTYPE, parse_hex, to_records
from stages.select_exclude import read_excluded

Found = tuple[str, str, str]
"""Artifact, what is wrong, where."""

_UID = ["uid_hi", "uid_lo"]


@dataclass
class Contents:
    """The artifacts of a run, to be counted against one another; those that the run has not are left out."""

    artifacts: Mapping[str, Artifact]
    reporter: Reporter
    exclude: Sequence[str] = ()
    """Lists of samples that must not be kept, wherever they lie now."""
    storage: Storage = field(default_factory=Storage)
    """Reaches those lists."""
    unchecked: list[str] = field(default_factory=list)
    """What could not be held against the run."""

    def differences(self) -> Iterator[Found]:
        """All that does not agree. Holds one uid bucket of rows, and 16 bytes a kept sample."""
        pool, subset, shards = (self.artifacts.get(name) for name in ("pool", "subset", "shards"))
        for name, artifact in self.artifacts.items():
            yield from _told(artifact, verify_tables.rows(name, artifact))
        if pool is not None:
            yield from _told(pool, _pool(pool))
            yield from _told(pool, verify_tables.index(pool))
            for name, artifact in self.artifacts.items():
                if name in ("votes", "decisions"):
                    yield from _told(artifact, verify_tables.whole_pool(name, artifact, pool))
                elif name.startswith("scores/"):
                    yield from _told(artifact, verify_tables.scores(name, artifact, pool))
        if subset is not None:
            if pool is not None:
                yield from _told(subset, _subset(pool, subset))
            yield from _told(subset, self._excluded(subset))
            if shards is not None:
                yield from _told(shards, _shards(subset, shards, self.reporter))

    def _excluded(self, subset: Artifact) -> Iterator[Found]:
        """No kept sample is on a list of those that must not be."""
        for uri in self.exclude:
            try:
                listed = read_excluded(self.storage, [uri])
            except (GradsieveError, OSError) as error:
                self.unchecked.append(f"exclude list {uri}: {str(error).splitlines()[0]}")
                continue
            kept = listed.contains(*read_subset(subset.storage, subset.uri("sample_ids.npy")))
            if kept.any():
                what = f"{int(kept.sum())} kept samples are on the exclude list {uri}; run again if it has grown since"
                yield "subset", what, subset.uri("sample_ids.npy")


def _told(artifact: Artifact, found: Iterator[Found]) -> Iterator[Found]:
    """What a check finds; that it cannot read what it needs is a difference as well."""
    try:
        yield from found
    except (GradsieveError, OSError, LookupError, ValueError, StopIteration, RuntimeError) as error:
        what = str(error).replace("\n", ";") or type(error).__name__
        yield artifact.manifest.artifact, f"it does not hold what it must: {what}", artifact.root


def _pool(pool: Artifact) -> Iterator[Found]:
    """Groups seen in tars = rows of the index + rows of the quarantine; the order lists the same samples."""
    shards = pool.read_table("shards.parquet", ["seen", "usable"]).to_pydict()
    seen, usable = sum(shards["seen"]), sum(shards["usable"])
    indexed = sum(file.rows for file in pool.files("index/", ".parquet"))
    ordered = sum(file.rows for file in pool.files("order/", ".parquet"))
    quarantined = pool.read_table("quarantine.parquet", ["shard"]).num_rows
    for what, one, other in (
        ("samples seen, and indexed + quarantined", seen, indexed + quarantined),
        ("samples usable by shard, and indexed", usable, indexed),
        ("samples in the order, and indexed", ordered, indexed),
        ("samples of the summary, and seen", pool.summary["samples"], seen),
        ("samples quarantined by the summary, and by the table", pool.summary["quarantined"], quarantined),
    ):
        if one != other:
            yield "pool", f"{what}: {one} against {other}", pool.root


def _subset(pool: Artifact, subset: Artifact) -> Iterator[Found]:
    """Each indexed sample has one reason; the kept ones are the subset file, in order, once each."""
    where = subset.uri("sample_ids.npy")
    kept = read_subset(subset.storage, where)
    records = to_records(kept[0], kept[1])
    if len(records) != len(np.unique(records)):
        yield "subset", "a uid stands twice in the subset file", where
    reasons: dict[str, int] = {}
    by_reason = []
    for file in pool.files("index/", ".parquet"):
        index = pool.read_table(file.path, _UID)
        table = pl.from_arrow(subset.read_table(f"reasons/{file.path.removeprefix('index/')}"))
        assert isinstance(table, pl.DataFrame)
        if not _same_uids(index, table):
            yield "subset", f"reasons are not given for the samples of {file.path}", subset.root
            return
        for reason, number in table.group_by("reason").len().iter_rows():
            reasons[reason] = reasons.get(reason, 0) + number
        by_reason.append(_records(table.filter(pl.col("reason") == "kept")))
    kept_by_reason = np.sort(np.concatenate(by_reason)) if by_reason else np.zeros(0, UID_DTYPE)
    if not np.array_equal(kept_by_reason, records):
        yield "subset", "the subset file does not hold the samples whose reason is `kept`", where
    stated = {"kept": subset.summary["kept"], **subset.summary["dropped"]}
    if {name: number for name, number in stated.items() if number} != reasons:
        yield "subset", f"the summary counts {stated}, the table of reasons {reasons}", subset.root


def _same_uids(index: pa.Table, table: pl.DataFrame) -> bool:
    if index.num_rows != table.height:
        return False
    sorted_table = table.select(_UID).sort(_UID)
    return all(np.array_equal(index[name].to_numpy(), sorted_table[name].to_numpy()) for name in _UID)


def _records(table: pl.DataFrame) -> NDArray[np.void]:
    return to_records(table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy())


def _shards(subset: Artifact, shards: Artifact, reporter: Reporter) -> Iterator[Found]:
    """Every kept uid is in exactly one place of the tars, every tar as large as the side files say."""
    records = to_records(*read_subset(subset.storage, subset.uri("sample_ids.npy")))
    tars = shards.files(suffix=".tar")
    found, counts = [], {}
    with reporter.bar("shards", len(tars), "tars") as bar:
        for file in tars:
            uids, faults = _read_shard(shards, file.path)
            if len(uids) != file.rows:
                faults.append(f"the tar holds {len(uids)} samples; its manifest lists {file.rows}")
            yield from (("shards", fault, shards.uri(file.path)) for fault in faults)
            counts[file.path] = len(uids)
            if uids:
                parsed = parse_hex(uids)
                found.append(to_records(parsed.hi, parsed.lo))
            bar.advance()
    held = np.sort(np.concatenate(found)) if found else np.zeros(0, UID_DTYPE)
    if not np.array_equal(held, records):
        lost = np.setdiff1d(records, held)
        strange = np.setdiff1d(held, records)
        twice = len(held) - len(np.unique(held))
        what = f"{len(lost)} kept samples are in no tar, {len(strange)} others are, {twice} stand twice"
        first = (lost if len(lost) else strange)[:1]
        example = f"; the first is {first['f0'][0]:016x}{first['f1'][0]:016x}" if len(first) else ""
        yield "shards", what + example, shards.root
    sizes = json.loads(shards.read_bytes("sizes.json"))
    if sizes != counts:
        yield "shards", f"sizes.json says {sizes}, the tars hold {counts}", shards.uri("sizes.json")


def _read_shard(shards: Artifact, path: str) -> tuple[list[str], list[str]]:
    uids, faults = [], []
    with shards.storage.open(shards.uri(path)) as source:
        for sample in ShardReader(source):
            if sample.fault is not None:
                faults.append(f"sample {sample.key}: {sample.fault.reason}, {sample.fault.detail}")
                continue
            try:
                uids.append(sample_parts(sample).uid)
            except SampleError as error:
                faults.append(f"sample {sample.key}: {error}")
    return uids, faults
