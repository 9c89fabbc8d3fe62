"""Scores to votes: every (selector, visit) says keep, drop or nothing about each sample."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import Artifact, ArtifactWriter, Counts, FileEntry
from pipeline.errors import RunError, UserError
from pipeline.schema import POOL, SCORES, VOTES, Schema
from pipeline.stage import Size, Stage, StageContext, StagePlan, StageResult
from stages.binarize_config import BinarizeConfig, Voter, VoterConfig
from stages.binarize_fit import VoterFit, fit_voters
from stages.binarize_plan import plan_binarize
from stages.binarize_values import read_voters
from stages.kernels.buckets import bucket_path, check_same_cut
from stages.kernels.patterns import ABSTAIN, DROP, KEEP, MAX_VOTERS
from stages.kernels.score_values import COLUMNS
from stages.kernels.uid import positions

__all__ = ["BinarizeConfig", "BinarizeStage", "VoterConfig"]


class BinarizeStage(Stage[BinarizeConfig]):
    """Votes of all voters, bucket by bucket; a sample without a score of that visit is an abstention."""

    version = 2
    takes: ClassVar[Mapping[str, Schema]] = {"pool": POOL, "scores": SCORES}
    gives: ClassVar[Schema] = VOTES

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """See `plan_binarize`."""
        return plan_binarize(self.config, inputs, rates)

    def run(self, context: StageContext) -> StageResult:
        """Find every voter's line, then write the votes."""
        pool = context.inputs["pool"]
        scores = {role.split("/", 1)[1]: table for role, table in context.inputs.items() if role.startswith("scores/")}
        bits = int(pool.summary["bucket_bits"])
        check_same_cut(bits, [(name, int(table.summary["bucket_bits"])) for name, table in scores.items()])
        voters = self._voters(scores)
        for selector in {voter.selector for voter in voters}:
            _warn_of_raw(context, selector, scores[selector], voters)
        pool_rows = sum(file.rows for file in pool.files("index/"))
        fits = fit_voters(context.engine, scores, voters, num_buckets=1 << bits, pool_rows=pool_rows)
        for fit in fits:
            if fit.voter.method in ("kmeans", "gmm") and fit.split is None:
                context.reporter.warn(
                    f"{fit.voter.name} abstains: {fit.voter.method} found no line between two clusters"
                )
        task = partial(_write, pool, scores, fits, context.output)
        written = context.engine.map(task, range(1 << bits), name="binarize: votes")
        tallies = np.sum([tally for _, tally in written], axis=0)
        summary = {
            "voters": [_describe(fit, tally) for fit, tally in zip(fits, tallies, strict=True)],
            "rows": pool_rows,
            "bucket_bits": bits,
        }
        return StageResult(tuple(entry for entry, _ in written), summary, Counts(pool_rows, pool_rows))

    def _voters(self, scores: Mapping[str, Artifact]) -> list[Voter]:
        try:
            voters = [
                voter
                for name in self.config.voting(sorted(scores))
                for voter in self.config.voters_of(
                    name,
                    int(scores[name].summary["visits"]),
                    "batched" if scores[name].summary["batched"] else "unbatched",
                )
            ]
        except ValueError as error:
            raise UserError("binarize does not fit the score tables", found=error) from error
        if len(voters) > MAX_VOTERS:
            raise UserError("too many voters", expected=f"at most {MAX_VOTERS}", found=len(voters))
        return [_on_recorded_scale(voter, scores[voter.selector]) for voter in voters]


def _on_recorded_scale(voter: Voter, table: Artifact) -> Voter:
    """The voter on a scale that its table holds; raw where a batched table records no place within the batch."""
    columns = table.schema(table.files("bucket-")[0].path).names
    missing = [name for name in COLUMNS[voter.scale] if name not in columns]
    if not missing:
        return voter
    if voter.method == "threshold":
        raise UserError(
            f"{voter.selector}: its score table does not hold the scale {voter.scale!r}",
            expected=", ".join(COLUMNS[voter.scale]),
            found=", ".join(columns),
            next_step=f"set binarize.voters.{voter.selector}.scale to one that is there",
        )
    return Voter(voter.selector, voter.visit, voter.method, voter.fraction, voter.of, "raw", voter.threshold)


def _warn_of_raw(context: StageContext, selector: str, table: Artifact, voters: Sequence[Voter]) -> None:
    if table.summary["batched"] and any(voter.selector == selector and voter.scale == "raw" for voter in voters):
        context.reporter.warn(f"{selector}: raw scores of different batches are compared with one another")


def _write(
    pool: Artifact, scores: Mapping[str, Artifact], fits: Sequence[VoterFit], output: ArtifactWriter, bucket: int
) -> tuple[FileEntry, NDArray[np.int64]]:
    """Votes of one bucket, and how many of each kind: [m, 3] keep, drop, abstain."""
    index = pool.read_table(bucket_path(bucket, "index"), ["uid_hi", "uid_lo"])
    uid_hi, uid_lo = index["uid_hi"].to_numpy(), index["uid_lo"].to_numpy()
    votes = np.full((len(fits), len(uid_hi)), ABSTAIN, np.int8)
    for number, found in read_voters(scores, [fit.voter for fit in fits], bucket):
        rows = positions(uid_hi, uid_lo, found.uid_hi, found.uid_lo)
        if (rows < 0).any():
            raise RunError(
                "scores of samples that are not in the pool",
                where=scores[fits[number].voter.selector].uri(bucket_path(bucket)),
                found=f"{int((rows < 0).sum())} uids",
                next_step="the selector must leave out what the pool's index does not list",
            )
        votes[number, rows] = fits[number].votes(found)
    columns: dict[str, Any] = {"uid_hi": uid_hi, "uid_lo": uid_lo}
    columns |= {fit.voter.name: votes[number] for number, fit in enumerate(fits)}
    tally = np.stack([(votes == kind).sum(axis=1) for kind in (KEEP, DROP, ABSTAIN)], axis=1)
    return output.put_table(bucket_path(bucket), pa.table(columns)), tally


def _describe(fit: VoterFit, tally: NDArray[np.int64]) -> dict[str, Any]:
    voter = fit.voter
    return {
        "name": voter.name,
        "selector": voter.selector,
        "visit": voter.visit,
        "method": voter.method,
        "fraction": voter.fraction if voter.method == "top_fraction" else None,
        "of": voter.of if voter.method == "top_fraction" else None,
        "scale": voter.scale,
        "threshold": fit.threshold,
        "keep": int(tally[0]),
        "drop": int(tally[1]),
        "abstain": int(tally[2]),
    }
