"""What a run would do and cost, foretold from sizes alone; spends nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.artifact import MANIFEST_NAME, Artifact
from pipeline.errors import UserError
from pipeline.graph import Graph
from pipeline.limits import LimitsConfig
from pipeline.rates import RatesConfig
from pipeline.reuse import Entries
from pipeline.stage import Size, StagePlan


@dataclass(frozen=True)
class PlannedNode:
    """One line of a plan."""

    name: str
    done: bool
    plan: StagePlan

    def cpu_hours(self, rates: RatesConfig) -> float:
        """Cores that compute or wait: for the store, by requests, and for Ray, by tasks."""
        traffic = self.plan.traffic
        waiting = (traffic.gets + traffic.puts) * rates.seconds_per_request
        return self.plan.cpu_hours + (waiting + self.plan.partitions * rates.seconds_per_task) / 3600

    def usd(self, rates: RatesConfig) -> float:
        """Cost of what is still to do; keeping the results is not in it."""
        if self.done:
            return 0.0
        hours = self.plan.gpu_hours * rates.usd_per_gpu_hour + self.cpu_hours(rates) * rates.usd_per_cpu_hour
        gets, puts = self.plan.traffic.gets / 1e6, self.plan.traffic.puts / 1e6
        return hours + gets * rates.usd_per_million_gets + puts * rates.usd_per_million_puts

    @property
    def written(self) -> int:
        """Bytes put, those between two passes among them."""
        return self.plan.output.bytes + self.plan.private_bytes


def make_plan(graph: Graph, done: Mapping[str, Artifact], rates: RatesConfig) -> list[PlannedNode]:
    """Go through the graph with sizes instead of data; finished artifacts give their true ones."""
    sizes: dict[str, Size] = {}
    lines = []
    for node in graph.nodes:
        artifact = done.get(node.name)
        if node.adopted is not None:
            size = size_of(artifact) if artifact is not None else Size(0, 0)
            plan = StagePlan(size, partitions=0, note=f"taken from {node.adopted.run}")
        else:
            inputs = {role: sizes[source] for role, source in node.inputs.items()}
            plan = graph.stages[node.name].plan(inputs, rates.model_dump())
        sizes[node.name] = size_of(artifact) if artifact is not None else plan.output
        lines.append(PlannedNode(node.name, artifact is not None, plan))
    return lines


def note_entries(lines: list[PlannedNode], graph: Graph) -> list[PlannedNode]:
    """Say beside stages that will run how many results of single tasks earlier runs left for them.

    Which of them fit is known once a task looks; the plan counts as if there were none.
    """
    place = graph.place
    noted = []
    for line in lines:
        kinds = () if line.done else graph.stages[line.name].keeps
        roots = [Entries.of(place.store, kind, place.storage).root for kind in kinds]
        found = sum(len(place.storage.list(root, suffix=MANIFEST_NAME)) for root in roots)
        if found:
            text = f"at most: {found:,} results of earlier tasks are reused where they fit"
            note = "; ".join(filter(None, [line.plan.note, text]))
            line = replace(line, plan=replace(line.plan, note=note))
        noted.append(line)
    return noted


class Beyond(NamedTuple):
    """A limit that a plan does not keep."""

    limit: str
    """By its name in the configuration."""
    most: float
    planned: float


def beyond_limits(lines: list[PlannedNode], limits: LimitsConfig, rates: RatesConfig) -> list[Beyond]:
    """The limits on GPU hours and cost that the plan is above; hours on the clock cannot be foretold."""
    gpu_hours = sum(line.plan.gpu_hours for line in lines if not line.done)
    usd = sum(line.usd(rates) for line in lines)
    named = (("limits.gpu_hours", limits.gpu_hours, gpu_hours), ("limits.usd", limits.usd, usd))
    return [Beyond(name, most, planned) for name, most, planned in named if most is not None and planned > most]


def check_limits(lines: list[PlannedNode], limits: LimitsConfig, rates: RatesConfig) -> None:
    """Refuse a plan beyond its limits.

    Raises:
        UserError: planned GPU hours or cost are above `limits`.
    """
    for name, most, planned in beyond_limits(lines, limits, rates):
        raise UserError(
            "the plan is beyond its limits",
            where=name,
            expected=f"at most {most:g}",
            found=f"{planned:g} planned",
            next_step="look at `--plan`, raise the limit, or try `pool.sample=0.01` first",
        )


def plan_table(lines: list[PlannedNode], rates: RatesConfig) -> Table:
    """The plan as people read it, stage by stage."""
    table = Table(title="plan", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    texts = ("stage", "state", "note")
    numbers = ("rows", "reads", "writes", "requests", "tasks", "a task", "driver", "steps", "GPU h", "CPU h", "USD")
    for column in (*texts[:2], *numbers, *texts[2:]):
        table.add_column(column, justify="left" if column in texts else "right", no_wrap=column != "note")
    for line in lines:
        plan = line.plan
        table.add_row(
            line.name,
            "done" if line.done else "to run",
            f"{plan.output.rows:,}",
            human_bytes(plan.traffic.read_bytes),
            human_bytes(line.written),
            human_count(plan.traffic.gets + plan.traffic.puts),
            f"{plan.partitions:,}",
            human_bytes(plan.peak_task_bytes) if plan.peak_task_bytes else "",
            human_bytes(plan.driver_bytes) if plan.driver_bytes else "",
            f"{plan.steps:,}" if plan.steps is not None else "",
            f"{plan.gpu_hours:,.1f}" if plan.gpu_hours else "",
            f"{line.cpu_hours(rates):,.1f}" if line.cpu_hours(rates) >= 0.05 else "",
            f"{line.usd(rates):,.2f}" if line.usd(rates) >= 0.005 else "",
            plan.note,
        )
    return table


def plan_totals(lines: list[PlannedNode], rates: RatesConfig) -> str:
    """What is still to do, in one line that fits any terminal's wrapping."""
    todo = [line for line in lines if not line.done]
    written = sum(line.written for line in todo)
    memory = max((line.plan.peak_task_bytes for line in todo), default=0)
    driver = max((line.plan.driver_bytes for line in todo), default=0)
    requests = sum(line.plan.traffic.gets + line.plan.traffic.puts for line in todo)
    usd, month = sum(line.usd(rates) for line in lines), written / 1e12 * rates.usd_per_tb_month
    return (
        f"to run: {len(todo)} of {len(lines)} stages; reads "
        f"{human_bytes(sum(line.plan.traffic.read_bytes for line in todo))}, writes {human_bytes(written)}, "
        f"{human_count(requests)} requests, at most {human_bytes(memory)} of memory a task and {human_bytes(driver)} "
        f"in the driver, {sum(line.plan.gpu_hours for line in todo):,.1f} GPU hours, "
        f"{sum(line.cpu_hours(rates) for line in todo):,.1f} CPU hours, {usd:,.2f} USD; "
        f"keeping it all costs {month:,.2f} USD a month"
    )


def human_count(number: float) -> str:
    """A number with a decimal unit, three digits."""
    for unit in ("", " k", " M"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} G"


def human_bytes(number: float) -> str:
    """Bytes with a decimal unit, three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"


def size_of(artifact: Artifact) -> Size:
    """The true size of what is there, as a plan takes it."""
    counts = artifact.manifest.counts
    files = artifact.manifest.files
    rows = counts.out if counts is not None else sum(file.rows for file in files)
    bits = artifact.summary.get("bucket_bits")
    return Size(rows, sum(file.bytes for file in files), None if bits is None else 1 << int(bits))
