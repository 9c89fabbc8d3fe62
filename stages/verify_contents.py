"""Whether pool, subset and shards account for the same samples, counted from their rows and bytes alone."""

import json
from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import Artifact
from pipeline.errors import GradsieveError
from pipeline.progress import Reporter
from stages.formats.datacomp import SampleError, sample_parts
from stages.formats.npy import read_subset
from stages.formats.tar import ShardReader
from stages.kernels.uid import UID_DTYPE, parse_hex, to_records

Found = tuple[str, str, str]
"""Artifact, what is wrong, where."""

_UID = ["uid_hi", "uid_lo"]


def differences(artifacts: Mapping[str, Artifact], reporter: Reporter) -> Iterator[Found]:
    """All that does not agree; artifacts that the run has not are left out.

    Holds one uid bucket of rows, and 16 bytes a kept sample.
    """
    if "pool" in artifacts:
        yield from _pool(artifacts["pool"])
    if "pool" in artifacts and "subset" in artifacts:
        yield from _subset(artifacts["pool"], artifacts["subset"])
    if "subset" in artifacts and "shards" in artifacts:
        yield from _shards(artifacts["subset"], artifacts["shards"], reporter)


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
    try:
        kept = read_subset(subset.storage, where)
    except GradsieveError as error:
        yield "subset", str(error).replace("\n", ";"), where
        return
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
