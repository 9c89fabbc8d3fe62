"""Votes to decisions: one probability a sample, from a label model, the majority or the mean score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import Artifact, ArtifactWriter, Counts, FileEntry
from pipeline.errors import RunError, UserError
from pipeline.schema import DECISIONS, SCORES, VOTES, Schema
from pipeline.stage import Size, Stage, StageContext, StagePlan, StageResult
from stages.aggregate_config import AggregateConfig
from stages.aggregate_counts import Source, Tally, count_all, mean_scores
from stages.aggregate_plan import plan_aggregate
from stages.kernels.buckets import bucket_path, check_same_cut
from stages.kernels.patterns import ALL_ABSTAIN, VoteCounts, by_pattern, one_hot, pack, unpack
from stages.kernels.scale import Quantiles, Scale, unit_interval
from stages.kernels.uid import positions

if TYPE_CHECKING:
    from stages.kernels.label_model import FittedLabelModel

__all__ = ["AggregateConfig", "AggregateStage"]

_SHOWN_PATTERNS = 64
_PRIOR_BOUNDS = 0.01, 0.99
_UID = ("uid_hi", "uid_lo")


class AggregateStage(Stage[AggregateConfig]):
    """Counts votes bucket by bucket, fits on one node, joins the probabilities back bucket by bucket."""

    takes: ClassVar[Mapping[str, Schema]] = {"votes": VOTES, "scores": SCORES}
    gives: ClassVar[Schema] = DECISIONS

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """See `plan_aggregate`."""
        return plan_aggregate(inputs, rates)

    def run(self, context: StageContext) -> StageResult:
        """Count, fit, decide."""
        votes = context.inputs["votes"]
        scores = {role.split("/", 1)[1]: table for role, table in context.inputs.items() if role.startswith("scores/")}
        voters: list[dict[str, Any]] = list(votes.summary["voters"])
        bits = int(votes.summary["bucket_bits"])
        check_same_cut(bits, [(name, int(table.summary["bucket_bits"])) for name, table in scores.items()])
        method = self._method(context, voters)
        sources = _sources(voters, scores)

        tally = count_all(context.engine, votes, sources)
        prior = self._prior(context, tally.votes)
        fitted = None
        if method == "label_model":
            fit = partial(_fit, self.config, context.seed, prior)
            fitted = context.engine.on_one_node(
                fit, tally.votes, name="aggregate: label model", role=context.engine.config.aggregation
            )

        decide = _Decide(votes, [voter["name"] for voter in voters], sources, tally.quantiles, method, prior, fitted)
        write = partial(_write, decide, context.output)
        written = context.engine.map(write, range(1 << bits), name="aggregate: decisions")
        diagnostics = {
            "method": method,
            "prior": prior,
            "voters": [_diagnose(voter, index, tally.votes, fitted) for index, voter in enumerate(voters)],
            "final_loss": fitted.final_loss if fitted else None,
            "retention": sum(kept for _, kept in written) / max(1, tally.votes.voted),
            "rows": tally.votes.rows,
            "voted": tally.votes.voted,
            "patterns": len(tally.patterns[0]) if tally.patterns else None,
        }
        common = _common_patterns(decide, tally)
        files = [entry for entry, _ in written]
        files.append(context.output.put_json("label_model.json", {**diagnostics, "common_patterns": common}))
        rows = tally.votes.rows
        summary = {**diagnostics, "bucket_bits": bits, "scales": {source.selector: source.scale for source in sources}}
        return StageResult(tuple(files), summary, Counts(rows, rows))

    def _method(self, context: StageContext, voters: Sequence[Mapping[str, Any]]) -> str:
        try:
            self.config.check_num_voters(len(voters))
        except ValueError as error:
            raise UserError("aggregate does not fit the votes", found=error) from error
        method = self.config.resolved(len(voters))
        if self.config.method == "auto" and method == "majority":
            context.reporter.warn(f"{len(voters)} voters are too few for a label model: the majority decides")
        return method

    def _prior(self, context: StageContext, counts: VoteCounts) -> float:
        if self.config.class_balance is not None:
            return self.config.class_balance
        cast = int(counts.votes.sum())
        if cast == 0:
            raise UserError(
                "nobody voted: every voter abstains on every sample",
                next_step="use another binarize.method (top_fraction always votes)",
            )
        found = int(counts.votes[:, 1].sum()) / cast
        prior = min(max(found, _PRIOR_BOUNDS[0]), _PRIOR_BOUNDS[1])
        if prior != found:
            context.reporter.warn(f"{found:.4f} of the votes say keep; the prior is taken as {prior:g}")
        return prior


@dataclass(frozen=True)
class _Decide:
    """All that a bucket's decisions follow from."""

    votes: Artifact
    voters: Sequence[str]
    sources: Sequence[Source]
    quantiles: Mapping[str, Quantiles]
    method: str
    prior: float
    fitted: "FittedLabelModel | None"

    def p_keep(self, patterns: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Probability by vote pattern: [p]."""
        if self.fitted is not None:
            return self.fitted.p_keep(patterns)
        ballots = one_hot(unpack(patterns, len(self.voters)))
        keep, cast = ballots[:, 1::2].sum(axis=1), ballots.sum(axis=1)
        return np.where(cast > 0, keep / np.maximum(cast, 1), self.prior)


def _sources(voters: Sequence[Mapping[str, Any]], scores: Mapping[str, Artifact]) -> list[Source]:
    voting: dict[str, Scale] = {voter["selector"]: voter["scale"] for voter in voters}
    return [
        Source(name, table, voting[name] if name in voting else _default_scale(table), name in voting)
        for name, table in sorted(scores.items())
    ]


def _default_scale(table: Artifact) -> Scale:
    return "batch_rank" if "rank" in table.schema(table.files("bucket-")[0].path).names else "raw"


def _fit(config: AggregateConfig, seed: int, prior: float, counts: VoteCounts) -> "FittedLabelModel":
    from stages.kernels.label_model import FitSettings, fit_label_model  # torch is paid for only where it is used

    settings = FitSettings(config.steps, config.learning_rate, config.l2, config.initial_precision, seed)
    return fit_label_model(counts, prior, settings)


def _write(decide: _Decide, output: ArtifactWriter, bucket: int) -> tuple[FileEntry, int]:
    """Decisions of one bucket, and how many samples with a vote are more likely good than not."""
    table = decide.votes.read_table(bucket_path(bucket), [*_UID, *decide.voters])
    uid_hi, uid_lo = table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy()
    pattern = pack([table[name].to_numpy() for name in decide.voters])
    columns: dict[str, Any] = {}
    total, parts = np.zeros(len(uid_hi)), np.zeros(len(uid_hi), np.int64)
    for source in decide.sources:
        hi, lo, means = mean_scores(source, bucket)
        rows = positions(uid_hi, uid_lo, hi, lo)
        if (rows < 0).any():
            raise RunError("scores of samples without votes", where=source.table.uri(bucket_path(bucket)))
        column, absent = np.zeros(len(uid_hi), np.float32), np.ones(len(uid_hi), bool)
        column[rows], absent[rows] = means, False
        columns[f"score__{source.selector}"] = pa.array(column, mask=absent)
        if source.votes:
            total[rows] += unit_interval(means, source.scale, decide.quantiles.get(source.selector))
            parts[rows] += 1
    mean_score = total / np.maximum(parts, 1)
    if decide.method == "mean_score":
        p_keep = np.where(parts > 0, mean_score, decide.prior).astype(np.float32)
    else:
        p_keep = by_pattern(pattern, len(decide.voters), lambda distinct: decide.p_keep(distinct).astype(np.float32))
    decided = {"uid_hi": uid_hi, "uid_lo": uid_lo, "p_keep": p_keep, "pattern": pattern}
    decided["mean_score"] = pa.array(mean_score.astype(np.float32), mask=parts == 0)
    entry = output.put_table(bucket_path(bucket), pa.table({**decided, **columns}))
    return entry, int(((p_keep > 0.5) & (pattern != ALL_ABSTAIN)).sum())


def _diagnose(
    voter: Mapping[str, Any], index: int, counts: VoteCounts, fitted: "FittedLabelModel | None"
) -> dict[str, Any]:
    """Coverage, overlap and conflict as shares of the rows; learned accuracy and conditional probabilities."""
    drop, keep = (int(votes) for votes in counts.votes[index])
    rows = max(1, counts.rows)
    accuracy = float(fitted.accuracy[index]) if fitted is not None and keep + drop else None
    described: dict[str, Any] = {
        "name": voter["name"],
        "coverage": (keep + drop) / rows,
        "overlap": int(counts.overlap[index]) / rows,
        "conflict": int(counts.conflict[index]) / rows,
        "keep_rate": keep / max(1, keep + drop),
        "accuracy": accuracy,
    }
    if fitted is not None:
        described["keep_if_good"] = float(fitted.conditional[2 * index + 1, 1])
        described["keep_if_bad"] = float(fitted.conditional[2 * index + 1, 0])
    return described


def _common_patterns(decide: _Decide, tally: Tally) -> list[dict[str, Any]] | None:
    """The most frequent vote patterns with their probability."""
    if tally.patterns is None:
        return None
    patterns, counts = tally.patterns
    order = np.lexsort((patterns, -counts))[:_SHOWN_PATTERNS]
    votes, p_keep = unpack(patterns[order], len(decide.voters)), decide.p_keep(patterns[order])
    return [
        {"votes": row.tolist(), "rows": int(rows), "p_keep": None if decide.method == "mean_score" else float(p)}
        for row, rows, p in zip(votes, counts[order], p_keep, strict=True)
    ]
