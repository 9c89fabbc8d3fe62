"""The report: one page for people and the same figures for machines."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifact import Artifact, canonical_json
from pipeline.schema import DECISIONS, DOCUMENTS, MODEL, POOL, SCORES, SHARDS, SUBSET, VOTES, Schema
from pipeline.stage import External, ExternalFiles, Size, Stage, StageContext, StagePlan, StageResult
from pipeline.storage import Storage, absolute
from stages.report.auc import exact_aucs
from stages.report.config import ReportConfig
from stages.report.facts import collect, trainings
from stages.report.gallery import Shown, Wish, choose, wishes
from stages.report.page import Card, Content, Gallery, WorstShard, render
from stages.report.panels import curves
from stages.report.pictures import read_pictures
from stages.report.plan import plan_report
from stages.report.survey import survey
from stages.report.truth import Truth
from stages.report.view import Pool, Source

MAX_SHARDS = 10
"""Shards in the table of quarantine."""


class ReportStage(Stage[ReportConfig]):
    """Counts bucket by bucket, reads a few dozen pictures, writes `index.html` and `summary.json`."""

    takes: ClassVar[Mapping[str, Schema]] = {
        "pool": POOL,
        "training": MODEL,
        "reference": MODEL,
        "scores": SCORES,
        "votes": VOTES,
        "decisions": DECISIONS,
        "subset": SUBSET,
        "shards": SHARDS,
        "evaluation": DOCUMENTS,
    }
    gives: ClassVar[Schema] = DOCUMENTS

    def __init__(self, config: ReportConfig, *, pool_path: str) -> None:
        """Keep the config.

        Args:
            config: what to show.
            pool_path: where the pool's tars lie, for the pictures.
        """
        super().__init__(config)
        self.pool_path = pool_path

    def external(self) -> Mapping[str, External]:
        """The pool's tars, for which its index vouches, and the truth where it is known."""
        declared = {"tars": External(self.pool_path, identity=False, suffix=".tar", missing="check pool.path")}
        if self.config.truth is not None:
            declared["truth"] = External(
                self.config.truth, missing="leave `report.truth` out where nothing is known; the demo pool has one"
            )
        return declared

    def preflight(self, external: Mapping[str, ExternalFiles], storage: Storage) -> None:
        """Check the truth's columns."""
        if "truth" in external:
            _truth(external["truth"], storage).check()

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """See `plan_report`."""
        return plan_report(self.config, inputs, rates)

    def run(self, context: StageContext) -> StageResult:
        """Survey, choose samples, compose."""
        pool = _pool(context)
        found = survey(context.engine, pool)
        means = found.tally.means
        aucs = exact_aucs(context.engine, pool, means) if pool.truth else None
        wanted = wishes([source.name for source in pool.sources], self.config.gallery)
        chosen = choose(context.engine, pool, wanted, means)
        facts = collect(context.inputs, found.tally, aucs, context.seed)
        content = Content(
            self.config.title,
            facts,
            found,
            curves(trainings(context.inputs), facts["evaluation"]),
            self._galleries(context, pool, wanted, chosen),
            worst_shards(pool.index),
            pool.truth is not None,
        )
        page = context.output.put_bytes("index.html", render(content))
        summary = context.output.put_bytes("summary.json", canonical_json(facts))
        return StageResult((page, summary), {"samples": facts["pool"]["samples"], "kept": facts["select"]["kept"]})

    def _galleries(
        self, context: StageContext, pool: Pool, wanted: Sequence[Wish], chosen: Mapping[str, Sequence[Shown]]
    ) -> list[Gallery]:
        everyone = [shown for group in chosen.values() for shown in group]
        pictures = read_pictures(context.storage, pool.index, absolute(self.pool_path), everyone)
        details = pool.truth.details([shown.uid for shown in everyone]) if pool.truth else {}
        galleries = []
        for wish in wanted:
            cards = [
                Card(shown, pictures[shown.uid], *details.get(shown.uid, ([], None))) for shown in chosen[wish.name]
            ]
            if cards:
                galleries.append(Gallery(wish, cards))
        return galleries


def worst_shards(pool: Artifact, number: int = MAX_SHARDS) -> list[WorstShard]:
    """Shards that lost most samples to quarantine, the worst first."""
    if not pool.files("quarantine.parquet"):
        return []
    lost = pool.read_table("quarantine.parquet", ["shard", "reason"])
    shards = pool.read_table("shards.parquet", ["shard", "path", "seen"])
    counts = lost.group_by(["shard", "reason"]).aggregate([([], "count_all")])
    totals = counts.group_by("shard").aggregate([("count_all", "sum")])
    worst = totals.sort_by([("count_all_sum", "descending"), ("shard", "ascending")]).slice(0, number)
    found = []
    for row in worst.to_pylist():
        chosen = counts.filter(pc.equal(counts["shard"], row["shard"])).sort_by([("count_all", "descending")])
        place = shards.filter(pc.equal(shards["shard"], pa.scalar(row["shard"], shards["shard"].type))).to_pylist()[0]
        reasons = dict(zip(chosen["reason"].to_pylist(), chosen["count_all"].to_pylist(), strict=True))
        found.append(WorstShard(place["path"], row["count_all_sum"], place["seen"], reasons))
    return found


def _pool(context: StageContext) -> Pool:
    inputs = context.inputs
    scores = {role.split("/", 1)[1]: table for role, table in inputs.items() if role.startswith("scores/")}
    names = sorted(scores, key=lambda name: (name != "mimic", name))
    sources = [Source.of_scores(name, scores[name]) for name in names]
    sources.append(Source.of_decisions(inputs["decisions"]))
    truth = _truth(context.external["truth"], context.storage) if "truth" in context.external else None
    return Pool(inputs["pool"], inputs["subset"], tuple(sources), truth)


def _truth(files: ExternalFiles, storage: Storage) -> Truth:
    return Truth(storage, files.files[0].uri)
