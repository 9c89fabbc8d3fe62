"""One curation run from its configuration text to the lines that tell what came of it."""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.table import Table

from pipeline.artifact import Artifact, Manifest
from pipeline.config import RunConfig
from pipeline.config_checks import check_gpus, check_metadata, check_voters, warnings_of
from pipeline.engine import Engine
from pipeline.errors import GradsieveError, RunError, UserError
from pipeline.gc import STORE_NAME
from pipeline.graph import Graph, Place, is_replacing, upto
from pipeline.growth import TAKEN, find_earlier, grown_nodes
from pipeline.heartbeat import heartbeat
from pipeline.lease import held
from pipeline.meter import LimitReachedError, Meter
from pipeline.nodes import assemble
from pipeline.plan import beyond_limits, check_limits, make_plan, note_entries, plan_table, plan_totals
from pipeline.progress import Reporter
from pipeline.run_log import logged
from pipeline.run_record import RunRecord, failure_to_write_told, used_before
from pipeline.runner import Runner, check_end_to_end
from pipeline.spend import spend_shown
from pipeline.storage import Storage, absolute, is_s3, join
from pipeline.yaml_config import load_config


def dated_name(moment: datetime) -> str:
    """Folder of a run in its series: sorts by time, and no two runs of one series share it, as they take turns."""
    return moment.strftime("%Y%m%dT%H%M%S.%fZ")[:19] + "Z"


class Curation:
    """A checked configuration with its graph."""

    def __init__(self, config: RunConfig, reporter: Reporter, *, dated: bool = False) -> None:
        """Resolve places and check what can be known from the configuration alone.

        Args:
            config: of the run.
            reporter: told what happens.
            dated: take `output` for a series: this run is the folder in it that is named by the time, and all runs of
                the series share its store.

        Raises:
            UserError: the configuration cannot work.
        """
        self.config = config
        self.reporter = reporter
        output = absolute(config.output)
        store = absolute(config.store) if config.store else join(output, STORE_NAME)
        self.series = output if dated else None
        if dated:
            output = join(output, dated_name(datetime.now(UTC)))
        self.place = Place(output, store, Storage(config.storage), reporter)
        self.nodes = assemble(config)
        self._check_places()
        check_voters(config)
        check_metadata(config)

    @classmethod
    def from_text(
        cls, text: str, overrides: Sequence[str], where: str, reporter: Reporter, *, dated: bool = False
    ) -> "Curation":
        """Parse a configuration text with overrides; `where` names it in messages."""
        return cls(load_config(RunConfig, text, overrides, where), reporter, dated=dated)

    def graph(self, until: str | None = None) -> Graph:
        """The graph up to a stage's label, or whole.

        Raises:
            UserError: the configuration cannot work, or does not fit the run that it grows from.
        """
        seed = self.config.seed
        plain = Graph(upto(self.nodes, until) if until else self.nodes, self.place, seed)
        if self.config.grow_from is None or not any(node.label in TAKEN for node in plain.nodes):
            return plain
        earlier = find_earlier(self.config.grow_from, self.place.output, self.series, self.place.storage)
        if earlier is None:
            self.reporter.say("grow_from: no run of the series has a training yet, so this one trains")
            return plain
        whole = Graph(self.nodes, self.place, seed, plain.listings)
        nodes = grown_nodes(whole, earlier, self.config.model_dump(mode="json"))
        self.reporter.say(f"grow_from: training and reference of {earlier.run} are taken")
        return Graph(upto(nodes, until) if until else nodes, self.place, seed, plain.listings)

    def plan(self, until: str | None = None) -> tuple[Table, str]:
        """What would run, stage by stage, and what it would cost in all."""
        graph = self.graph(until)
        self._warn()
        rates = self.config.plan.rates
        lines = note_entries(make_plan(graph, graph.done(tolerate_missing=True), rates), graph)
        refused = [
            f"beyond {limit}: {planned:,.2f} planned, at most {most:g}; such a run is refused"
            for limit, most, planned in beyond_limits(lines, self.config.limits, rates)
        ]
        return plan_table(lines, rates), "\n".join([plan_totals(lines, rates), *refused])

    def run(self, until: str | None = None, *, wait: bool = False) -> list[str]:
        """Run what is undone; lines for people: where results are, and what was found.

        Args:
            until: stop after the stage of this label.
            wait: wait for another run on the same output instead of being refused.

        Raises:
            GradsieveError: the run failed or was refused.
        """
        graph = self.graph(until)
        done = graph.done()
        if len(done) == len(graph.nodes):
            self.reporter.say("everything is done already")
            return self._closing_lines(done)
        self._warn()
        check_gpus(self.config)
        rates = self.config.plan.rates
        plan = make_plan(graph, done, rates)
        check_limits(plan, self.config.limits, rates)
        engine = Engine(self.config.cluster, self.reporter, train_cpus=self.config.train.num_workers)
        engine.preflight()
        output, storage = self.place.output, self.place.storage
        with ExitStack() as leases:
            for place in (self.series, output):
                if place is not None:
                    leases.enter_context(held(place, storage, self.reporter, wait=wait))
            leases.enter_context(logged(output, storage, self.reporter))
            self.reporter.event("run", {"state": "running", "output": output, "argv": sys.argv[1:]})
            before = used_before(output, storage, self.reporter)
            engine.meter = Meter(self.config.limits.budget(rates), before)
            runner = Runner(graph, engine, self.reporter)
            runner.preflight(done)
            self._check_nodes(engine, graph, done)
            names = [node.name for node in graph.nodes]
            record = RunRecord(output, storage, self.config.model_dump(mode="json"), names, engine.meter)
            try:
                with (
                    heartbeat(partial(_note_usage, record, self.reporter)),
                    spend_shown(rates, sum(line.usd(rates) for line in plan), engine.resources),
                ):
                    finished = runner.run(record)
                check_end_to_end(finished)
            except BaseException as error:
                state = _state_after(error)
                told = str(error) if isinstance(error, GradsieveError) else repr(error)
                self.reporter.event("run", {"state": state, "error": told})
                with failure_to_write_told(self.reporter):
                    record.finish(state, told)
                raise
            finally:
                engine.shutdown()
            self._warn_of_earlier(finished)
            record.finish("done")
            self.reporter.event("run", {"state": "done"})
        return self._closing_lines(finished)

    def _check_places(self) -> None:
        """Refuse an output in which a run would read what it wrote, or that is no folder.

        Raises:
            UserError: it lies in the pool, or is a file.
        """
        for key, place in (("output", self.place.output), ("store", self.place.store)):
            if not is_s3(place) and Path(place).exists() and not Path(place).is_dir():
                raise UserError(f"the {key} is not a folder", where=place, next_step=f"choose another `{key}`")
            for name, source in (("pool.path", self.config.pool.path), ("pool.metadata", self.config.pool.metadata)):
                if source is not None and f"{place}/".startswith(f"{absolute(source)}/"):
                    raise UserError(
                        f"the {key} lies in {name}: a run would take its own shards for samples of the pool",
                        where=place,
                        expected=f"a folder outside of {absolute(source)}",
                        next_step=f"choose another `{key}`",
                    )

    def _warn_of_earlier(self, finished: dict[str, Artifact]) -> None:
        """Deliverables that stay behind a run `--until` an earlier stage, and no longer belong to what it made."""
        contents = {artifact.manifest.content for artifact in finished.values()}
        stale = []
        for node in self.nodes:
            uri = self.place.manifest_uri(node, "")
            if not node.deliverable or node.name in finished or not self.place.storage.exists(uri):
                continue
            data = self.place.storage.read_bytes(uri)
            try:
                inputs = {} if is_replacing(data) else Manifest.from_json(data, uri).inputs
            except RunError:  # damaged: it fits nothing, and what was made now is none the worse for it
                inputs = {}
            roles = [role for role, source in node.inputs.items() if source in finished]
            if any(inputs.get(role) not in contents for role in roles):
                stale.append(node.name)
        if stale:
            self.reporter.warn(
                f"{', '.join(stale)} in the output belong(s) to an earlier run and no longer fit(s) what was made now; "
                "the same command without --until makes them again"
            )

    def _check_nodes(self, engine: Engine, graph: Graph, done: dict[str, Artifact]) -> None:
        """On a cluster: let every node say whether it can do the work, before hours of it."""
        if engine.address is None:
            return
        from cluster.node_checks import check_nodes

        engine.ensure_ray()
        inputs = {
            files.files[0].uri
            for node in graph.nodes
            if node.name not in done
            for files in graph.external(node).values()
        }
        places = dict.fromkeys([self.place.output, self.place.store])
        for line in check_nodes(self.place.storage, sorted(inputs), list(places)):
            self.reporter.warn(line)

    def _warn(self) -> None:
        for line in warnings_of(self.config):
            self.reporter.warn(line)

    def _closing_lines(self, finished: dict[str, Artifact]) -> list[str]:
        output = self.place.output
        lines = [""]
        if "report" in finished:
            lines.append(f"report  {join(output, 'report', 'index.html')}")
        if "subset" in finished:
            lines.append(f"subset  {join(output, 'subset', 'sample_ids.npy')}")
        if "shards" in finished:
            lines.append(f"shards  {join(output, 'shards')}")
        if "report" in finished:
            from stages.report.findings import findings

            summary = json.loads(finished["report"].read_bytes("summary.json"))
            lines += ["", *(f"- {finding}" for finding in findings(summary))]
        return lines


def _note_usage(record: RunRecord, reporter: Reporter) -> None:
    with failure_to_write_told(reporter):
        record.note_usage()


def _state_after(error: BaseException) -> str:
    if isinstance(error, LimitReachedError):
        return "stopped"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
