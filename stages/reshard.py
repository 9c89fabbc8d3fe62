"""The kept samples as new shards: original bytes and member names, in the order of the pool.

First each part of the pool's order table learns which of its rows are kept; prefix sums of the counts then say which
rows every output shard holds, and a task a shard copies them. The driver holds one bit a sample of the pool.
"""

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import Artifact, ArtifactWriter, Counts, FileEntry, canonical_json
from pipeline.errors import RunError
from pipeline.schema import ORDER, SHARDS, SUBSET, Schema
from pipeline.stage import External, Size, Stage, StageContext, StagePlan, StageResult
from pipeline.storage import Storage, join
from pipeline.write_behind import write_behind
from stages.formats import side_files
from stages.formats.npy import SubsetFile
from stages.formats.ranges import read_pieces
from stages.formats.tar import TarWriter, read_members
from stages.formats.uid_set import UidSet
from stages.kernels.grouping import consecutive_groups
from stages.kernels.uid import to_hex, uid_visit_order
from stages.reshard_config import ReshardConfig
from stages.reshard_plan import plan_reshard

_SLICE_RECORDS = 4 << 20
_GROUP_ROWS = 16 << 20
"""Of the pool, looked up by one task: each reads the whole subset, so that fewer of them read less."""
_MANY_GROUPS = 64


@dataclass(frozen=True)
class KeptRows:
    """Which rows of one part of the order table, or of a stretch of it, are kept."""

    path: str
    first_row: int
    num_rows: int
    mask: bytes
    """A bit a row, packed."""
    count: int

    @classmethod
    def of(cls, path: str, first_row: int, mask: NDArray[np.bool_]) -> "KeptRows":
        """Rows `first_row..` of a part, [n] whether they are kept."""
        return cls(path, first_row, len(mask), np.packbits(mask).tobytes(), int(mask.sum()))

    def unpacked(self) -> NDArray[np.bool_]:
        """[num_rows] whether they are kept."""
        return np.unpackbits(np.frombuffer(self.mask, np.uint8), count=self.num_rows).astype(np.bool_)


@dataclass(frozen=True)
class OutputShard:
    """One shard to write."""

    number: int
    pieces: tuple[KeptRows, ...]

    @property
    def num_samples(self) -> int:
        """Samples that it will hold."""
        return sum(piece.count for piece in self.pieces)


@dataclass(frozen=True)
class WrittenShard:
    """What a task made."""

    entries: tuple[FileEntry, ...]
    num_renamed: int
    """Samples that got a folder, as another one in this shard has their member names."""


class ReshardStage(Stage[ReshardConfig]):
    """Subset to shards; sizes differ by at most one sample."""

    version = 1
    takes: ClassVar[Mapping[str, Schema]] = {"pool": ORDER, "subset": SUBSET}
    gives = SHARDS

    def __init__(self, config: ReshardConfig, *, pool_path: str) -> None:
        """`pool_path`: where the shards lie that the pool's index speaks of."""
        super().__init__(config)
        self._pool_path = pool_path

    def external(self) -> Mapping[str, External]:
        """The pool's shards; the pool artifact vouches for their content."""
        return {"shards": External(self._pool_path, identity=False, suffix=".tar")}

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """See `plan_reshard`."""
        return plan_reshard(self.config, inputs, rates)

    def run(self, context: StageContext) -> StageResult:
        """Find the kept rows, deal them out, copy.

        Raises:
            UserError: the subset file is not sorted.
            RunError: the subset holds uids that the pool does not, or a sample's bytes changed.
        """
        pool, subset = context.inputs["pool"], context.inputs["subset"]
        uri = subset.uri("sample_ids.npy")
        wanted = SubsetFile.open(subset.storage, uri).num_records
        find = partial(_find_kept, pool=pool, subset_uri=uri)
        found = context.engine.map(find, _groups(pool), name="reshard: find kept", unit="parts", weigh=len)
        kept = [part for group in found for part in group]
        _check_found(sum(part.count for part in kept), wanted, uri)
        outputs = deal(kept, balanced_sizes(wanted, self.config.shard_size))
        write = partial(
            _write_shard, pool=pool, pool_path=self._root(context), storage=context.storage, writer=context.output
        )
        written = context.engine.map(
            write, outputs, name="reshard: copy", unit="samples", weigh=lambda shard: shard.num_samples
        )
        counts = [shard.num_samples for shard in outputs]
        entries = [entry for shard in written for entry in shard.entries]
        size = sum(entry.bytes for entry in entries if entry.path.endswith(".tar"))
        num_processed = sum(part.num_rows for part in kept)
        meta = side_files.meta(counts, shard_size=self.config.shard_size, num_processed=num_processed)
        entries.append(context.output.put_json(side_files.SIZES_NAME, side_files.sizes(counts)))
        entries.append(context.output.put_json(side_files.META_NAME, meta))
        summary = {
            "shards": len(counts),
            "samples": sum(counts),
            "bytes": size,
            "renamed": sum(shard.num_renamed for shard in written),
        }
        return StageResult(tuple(entries), summary, Counts(seen=wanted, out=sum(counts)))

    def _root(self, context: StageContext) -> str:
        shards = context.external.get("shards")
        return shards.uri if shards is not None else self._pool_path


def balanced_sizes(num_samples: int, shard_size: int) -> list[int]:
    """Samples of each output shard: ceil(n / shard_size) shards, the first ones with one sample more."""
    num_shards = -(-num_samples // shard_size)
    return [num_samples // num_shards + (number < num_samples % num_shards) for number in range(num_shards)]


def deal(kept: Sequence[KeptRows], sizes: Sequence[int]) -> list[OutputShard]:
    """Cut the kept rows of all parts, one behind the other, into output shards of these sizes."""
    ends = list(itertools.accumulate(sizes))
    pieces: list[list[KeptRows]] = [[] for _ in sizes]
    number, dealt = 0, 0
    for part in kept:
        mask = part.unpacked()
        rows = np.flatnonzero(mask)
        first = 0
        while first < part.count:
            stop = min(part.count, first + ends[number] - dealt)
            stretch = mask[rows[first] : rows[stop - 1] + 1]
            pieces[number].append(KeptRows.of(part.path, part.first_row + int(rows[first]), stretch))
            dealt += stop - first
            first = stop
            number += dealt == ends[number]
    return [OutputShard(number, tuple(found)) for number, found in enumerate(pieces)]


def _groups(pool: Artifact) -> list[tuple[FileEntry, ...]]:
    """Consecutive order parts for one task; each task goes once through the subset."""
    parts = pool.files("order/", ".parquet")
    target = max(1, min(_GROUP_ROWS, sum(part.rows for part in parts) // _MANY_GROUPS))
    return consecutive_groups(parts, lambda part: part.rows, lambda _: target)


def _find_kept(parts: tuple[FileEntry, ...], *, pool: Artifact, subset_uri: str) -> list[KeptRows]:
    """Look the uids of order parts up in the subset, slice by slice, so that any subset fits into memory.

    Both are sorted, so that each uid is looked up in one slice alone, however many there are.
    """
    table = pa.concat_tables([pool.read_table(part.path, ["uid_hi", "uid_lo"]) for part in parts])
    hi, lo = (table[name].to_numpy() for name in ("uid_hi", "uid_lo"))
    order = uid_visit_order(hi, lo, np.zeros(len(hi), np.uint8))
    hi, lo = hi[order], lo[order]
    found = np.zeros(len(hi), np.bool_)
    for slice_hi, slice_lo in SubsetFile.open(pool.storage, subset_uri).slices(_SLICE_RECORDS):
        first, last = np.searchsorted(hi, slice_hi[0], "left"), np.searchsorted(hi, slice_hi[-1], "right")
        found[first:last] |= UidSet(slice_hi, slice_lo).contains(hi[first:last], lo[first:last])
    mask = np.empty(len(found), np.bool_)
    mask[order] = found
    ends = np.cumsum([part.rows for part in parts])
    return [KeptRows.of(part.path, 0, own) for part, own in zip(parts, np.split(mask, ends[:-1]), strict=True)]


def _check_found(found: int, wanted: int, uri: str) -> None:
    if found != wanted:
        raise RunError(
            "the subset is not a part of the pool",
            where=uri,
            expected=f"{wanted} distinct uids of the pool",
            found=f"{found} of them in it",
            next_step="make the subset anew from this pool",
        )


def _write_shard(
    shard: OutputShard, *, pool: Artifact, pool_path: str, storage: Storage, writer: ArtifactWriter
) -> WrittenShard:
    """Build one shard whole on local disk, then put it."""
    name = side_files.shard_name(shard.number)
    with tempfile.TemporaryDirectory(prefix="gradsieve-") as folder:
        local = Path(folder) / name
        with write_behind(local) as sink:
            tar = TarWriter(sink)
            num_renamed = _copy(tar, _samples(shard, pool, pool_path, storage))
        entry = writer.put_file(name, local, rows=shard.num_samples, sha256=tar.sha256)
    stats = canonical_json(side_files.stats(shard.num_samples))
    return WrittenShard((entry, writer.put_bytes(side_files.stats_name(shard.number), stats)), num_renamed)


def _copy(tar: TarWriter, samples: Iterator[tuple[str, list[tuple[str, memoryview]]]]) -> int:
    """Write all samples; how many of them needed a folder for themselves.

    Pools joined from several crawls can have the same key twice. Two such samples in one shard would be read as one,
    or overwrite each other when unpacked, so the later one's members go into a folder named by its uid.
    """
    used: set[str] = set()
    num_renamed = 0
    for uid, members in samples:
        keys = {_key(name) for name, _ in members}
        clash = bool(keys & used)
        num_renamed += clash
        for name, data in members:
            tar.add(f"{uid}/{name}" if clash else name, data)
        used |= keys
    tar.close()
    return num_renamed


def _samples(
    shard: OutputShard, pool: Artifact, pool_path: str, storage: Storage
) -> Iterator[tuple[str, list[tuple[str, memoryview]]]]:
    """Uid and members of each sample of an output shard, in order."""
    numbers = pool.read_table("shards.parquet", ["shard", "path"])
    paths = dict(zip(numbers["shard"].to_pylist(), numbers["path"].to_pylist(), strict=True))
    for piece in shard.pieces:
        rows = _read_rows(pool, piece).filter(pa.array(piece.unpacked()))
        source = rows["shard"].to_numpy()
        cuts = np.flatnonzero(np.diff(source, prepend=source[:1] + 1)).tolist()
        for start, stop in itertools.pairwise([*cuts, len(source)]):
            run = rows.slice(start, stop - start)
            uri = join(pool_path, paths[int(source[start])])
            uids = to_hex(run["uid_hi"].to_numpy(), run["uid_lo"].to_numpy()).to_pylist()
            pieces = read_pieces(storage, uri, run["offset"].to_numpy(), run["length"].to_numpy())
            for uid, data in zip(uids, pieces, strict=True):
                yield uid, read_members(data)


def _read_rows(pool: Artifact, piece: KeptRows) -> pa.Table:
    """The stretch of the order table that a piece speaks of; reads only the row groups that hold it."""
    with pool.open_table(piece.path) as parquet:
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        ends = np.cumsum(sizes)
        first = int(np.searchsorted(ends, piece.first_row, side="right"))
        last = int(np.searchsorted(ends, piece.first_row + piece.num_rows - 1, side="right"))
        table = parquet.read_row_groups(list(range(first, last + 1)), columns=list(ORDER.columns))
    return table.slice(piece.first_row - int(ends[first] - sizes[first]), piece.num_rows)


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]
