"""Decisions and score tables to a subset: one rule, bucket by bucket, every sample accounted for."""

import tempfile
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib import format as npy

from pipeline.artifact import ArtifactWriter, Counts, FileEntry
from pipeline.errors import UserError
from pipeline.schema import DECISIONS, POOL, SCORES, SUBSET, Schema
from pipeline.stage import External, ExternalFiles, Size, Stage, StageContext, StagePlan, StageResult
from pipeline.storage import Storage, join
from stages.formats.basic_filter import check_language_model
from stages.formats.metadata_columns import Reader, TypeTest, check_metadata, is_label, is_number, is_rankable, is_text
from stages.formats.uid_set import UidSet
from stages.kernels.buckets import bucket_groups, bucket_path
from stages.kernels.uid import UID_DTYPE, to_records
from stages.select_config import DECISION, POOL_COLUMNS, RANDOM, SelectConfig
from stages.select_cuts import CutFound, Selection, find_cuts
from stages.select_exclude import read_excluded
from stages.select_filters import write_filters
from stages.select_frame import Frame, Sources
from stages.select_plan import plan_select
from stages.select_rules import judge

__all__ = ["SelectConfig", "SelectStage"]

KEPT, EXCLUDED, UNSCORED = "kept", "excluded", "unscored"
_GROUPS = 256
_IDS = "sample_ids.npy"
_READERS = 2


class SelectStage(Stage[SelectConfig]):
    """Keeps what the rule keeps; says of every other sample why not."""

    version = 2
    takes: ClassVar[Mapping[str, Schema]] = {"pool": POOL, "decisions": DECISIONS, "scores": SCORES}
    gives: ClassVar[Schema] = SUBSET

    def __init__(
        self, config: SelectConfig, metadata: str | None = None, selectors: Sequence[str] | None = None
    ) -> None:
        """Keep the config; `metadata` and `selectors` serve to refuse unknown names before any work.

        Args:
            config: the rule.
            metadata: folder of the pool's metadata.
            selectors: names of all selectors; without them only the columns of filters are checked early.
        """
        super().__init__(config)
        self.metadata = metadata
        self.selectors = selectors

    def external(self) -> Mapping[str, External]:
        """Exclusion lists and language models; the metadata's header, for which the pool's index vouches."""
        declared = {
            f"exclude/{place}": External(uri, missing="check select.exclude")
            for place, uri in enumerate(self.config.exclude)
        }
        for place, uri in enumerate(self.config.models()):
            missing = "download a model such as lid.176.bin, or use another select.rule language test"
            declared[f"language/{place}"] = External(uri, missing=missing)
        if self.metadata is not None and self._metadata_types():
            declared["metadata"] = External(self.metadata, identity=False, suffix=".parquet")
        return declared

    def preflight(self, external: Mapping[str, ExternalFiles], storage: Storage) -> None:
        """Check that columns, language test and exclusion lists can be read."""
        for model in self.config.models():
            check_language_model(storage, model, key="select.rule")
        read_excluded(storage, self.config.exclude)
        wanted = self._metadata_types()
        known = f"; selectors: {', '.join(sorted(self.selectors))}" if self.selectors else ""
        if wanted and "metadata" not in external:
            raise UserError(
                f"the rule needs metadata: {', '.join(sorted(wanted))}",
                where="select.rule",
                found=f"no pool.metadata{known}",
                next_step="point pool.metadata at the folder of the pool's .parquet files, or change the rule",
            )
        check_metadata(external, storage, wanted, Reader("the rule", "select.rule", known))

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """See `plan_select`."""
        return plan_select(self.config, inputs, rates)

    def run(self, context: StageContext) -> StageResult:
        """Find the rule's cuts, judge every sample, write reasons and the subset file."""
        pool, decisions = context.inputs["pool"], context.inputs["decisions"]
        num_buckets = 1 << int(pool.summary["bucket_bits"])
        names, clip_scores = tuple(self.config.names()), tuple(self.config.clip_columns())
        sources = Sources(pool, decisions, names, clip_scores, self.config.seed, context.output)
        sources.check(self.config.basic_columns())
        clauses = {path: clause.absolute() for path, clause in self.config.basics().items()}
        test = partial(write_filters, clauses, pool, context.storage, context.output) if clauses else None
        selection = Selection(self.config, sources)
        cuts, filters = find_cuts(context.engine, selection, num_buckets, prepare=test)
        selection = selection.with_cuts({found.cut.path: found.threshold for found in cuts})

        groups = bucket_groups(num_buckets, _GROUPS)
        judged = context.engine.map(
            partial(_judge_group, selection, context.storage, context.output),
            groups,
            name="select: subset",
            weigh=len,
        )
        parts = [part for group in judged for part in group]
        reasons: Counter[str] = Counter()
        for part in parts:
            reasons.update(part.reasons)
        kept = reasons.pop(KEPT, 0)
        entries = [part.entry for part in parts]
        ids = _write_ids(context.output, [entry.path for entry in entries], kept)
        if kept == 0:
            context.reporter.warn("the rule keeps no sample at all")
        dropped = {reason: reasons[reason] for reason in sorted(reasons)}
        summary = {
            "kept": kept,
            "dropped": dropped,
            "rule": self.config.rule.model_dump(by_alias=True, exclude_none=True),
            "rule_text": self.config.rule.label,
            "unscored": {"policy": self.config.unscored, "samples": sum(part.num_unscored for part in parts)},
            "excluded": {"listed": parts[0].num_listed, "in_pool": dropped.get(EXCLUDED, 0)},
            "cuts": [_describe(found) for found in cuts],
        }
        counts = Counts(sum(file.rows for file in pool.files("index/")), kept, dropped)
        return StageResult((ids, *entries, *filters), summary, counts)

    def _metadata_types(self) -> dict[str, TypeTest]:
        """Columns that the metadata must have, as far as is known now, with the kinds that can be used."""
        types: dict[str, TypeTest] = dict.fromkeys(self.config.clip_columns(), is_number)
        for clause in self.config.basics().values():
            types |= {clause.text: is_text, clause.width: is_number, clause.height: is_number}
            types |= {clause.language_column: is_label} if clause.language_column is not None else {}
        if self.selectors is not None:
            known = {DECISION, RANDOM, *POOL_COLUMNS, *self.selectors}
            types |= {name: is_rankable for name in self.config.names() if name not in known}
        return types


@dataclass(frozen=True)
class _Part:
    """What became of one bucket."""

    entry: FileEntry
    reasons: Mapping[str, int]
    num_unscored: int
    num_listed: int


def _judge_group(selection: Selection, storage: Storage, output: ArtifactWriter, buckets: Sequence[int]) -> list[_Part]:
    excluded = read_excluded(storage, selection.config.exclude)
    return [_judge(selection, excluded, output, bucket) for bucket in buckets]


def _judge(selection: Selection, excluded: UidSet, output: ArtifactWriter, bucket: int) -> _Part:
    """Write the reasons of one bucket."""
    frame = Frame(selection.sources, bucket, with_uids=True)
    judged = judge(selection.config.rule, selection.evaluation(), frame)
    texts = [*judged.reasons, KEPT, UNSCORED, EXCLUDED]
    kept, unscored, out = (len(texts) - 3 + place for place in range(3))

    unknown = ~(judged.verdict.holds | judged.verdict.fails)
    reason = np.where(judged.verdict.holds, kept, judged.failing)
    reason[unknown] = kept if selection.config.unscored == "keep" else unscored
    uid_hi, uid_lo = frame.uids
    reason[excluded.contains(uid_hi, uid_lo)] = out
    # Clauses that read the same are one reason.
    distinct = sorted(set(texts))
    number = np.array([distinct.index(text) for text in texts], np.int32)[reason]
    column = pa.DictionaryArray.from_arrays(pa.array(number), pa.array(distinct, pa.string()))
    entry = output.put_table(
        bucket_path(bucket, "reasons"), pa.table({"uid_hi": uid_hi, "uid_lo": uid_lo, "reason": column})
    )
    counts: Counter[str] = Counter()
    for place, number in enumerate(np.bincount(reason, minlength=len(texts)).tolist()):
        if number:
            counts[texts[place]] += number
    return _Part(entry, counts, int(unknown.sum()), len(excluded))


def _write_ids(output: ArtifactWriter, paths: Sequence[str], kept: int) -> FileEntry:
    """The subset file, put together on local disk; buckets in order are uids in order.

    Memory: of the rows of `_READERS` buckets.
    """
    with tempfile.TemporaryDirectory(prefix="subset-") as folder:
        local = Path(folder) / _IDS
        with local.open("wb") as file:
            header = {"descr": npy.dtype_to_descr(UID_DTYPE), "fortran_order": False, "shape": (kept,)}
            npy.write_array_header_1_0(file, header)
            with ThreadPoolExecutor(_READERS) as readers:
                first, later = paths[:_READERS], paths[_READERS:]
                reading = deque(readers.submit(_kept_uids, output, path) for path in first)
                for path in [*later, *[None] * len(first)]:
                    file.write(reading.popleft().result())
                    if path is not None:
                        reading.append(readers.submit(_kept_uids, output, path))
        return output.put_file(_IDS, local, rows=kept)


def _kept_uids(output: ArtifactWriter, path: str) -> bytes:
    table = output.storage.read_table(join(output.root, path), dictionaries=["reason"])
    rows = table.filter(pc.equal(table["reason"], KEPT))
    return to_records(rows["uid_hi"].to_numpy(), rows["uid_lo"].to_numpy()).tobytes()


def _describe(found: CutFound) -> dict[str, Any]:
    return {"clause": f"{found.cut.direction} {found.cut.clause.label}", "base": found.base, "asked": found.k}
