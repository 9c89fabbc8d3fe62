"""What a run would do and cost, foretold from sizes alone; spends nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.graph import Graph
from pipeline.limits import LimitsConfig
from pipeline.rates import RatesConfig
from pipeline.stage import Size, StagePlan


@dataclass(frozen=True)
class PlannedNode:
    """One line of a plan."""

    name: str
    done: bool
    plan: StagePlan

    def usd(self, rates: RatesConfig) -> float:
        """Cost of what is still to do."""
        if self.done:
            return 0.0
        return self.plan.gpu_hours * rates.usd_per_gpu_hour + self.plan.cpu_hours * rates.usd_per_cpu_hour


def make_plan(graph: Graph, done: Mapping[str, Artifact], rates: RatesConfig) -> list[PlannedNode]:
    """Go through the graph with sizes instead of data; finished artifacts give their true ones."""
    sizes: dict[str, Size] = {}
    lines = []
    for node in graph.nodes:
        inputs = {role: sizes[source] for role, source in node.inputs.items()}
        plan = graph.stages[node.name].plan(inputs, rates.model_dump())
        artifact = done.get(node.name)
        sizes[node.name] = _size_of(artifact) if artifact is not None else plan.output
        lines.append(PlannedNode(node.name, artifact is not None, plan))
    return lines


def check_limits(lines: list[PlannedNode], limits: LimitsConfig, rates: RatesConfig) -> None:
    """Refuse a plan beyond its limits.

    Raises:
        UserError: planned GPU hours or cost are above `limits`.
    """
    gpu_hours = sum(line.plan.gpu_hours for line in lines if not line.done)
    usd = sum(line.usd(rates) for line in lines)
    for name, planned, limit in (("gpu_hours", gpu_hours, limits.gpu_hours), ("usd", usd, limits.usd)):
        if limit is not None and planned > limit:
            raise UserError(
                "the plan is beyond its limits",
                where=f"limits.{name}",
                expected=f"at most {limit:g}",
                found=f"{planned:g} planned",
                next_step="look at `--plan`, raise the limit, or try `pool.sample=0.01` first",
            )


def plan_table(lines: list[PlannedNode], rates: RatesConfig) -> Table:
    """The plan as people read it, stage by stage."""
    table = Table(title="plan", title_justify="left", box=SIMPLE_HEAD)
    for column in ("stage", "state", "rows", "writes", "tasks", "memory a task", "steps", "GPU h", "USD", "note"):
        text = column in ("stage", "state", "note")
        table.add_column(column, justify="left" if text else "right", no_wrap=column != "note")
    for line in lines:
        plan = line.plan
        table.add_row(
            line.name,
            "done" if line.done else "to run",
            f"{plan.output.rows:,}",
            human_bytes(plan.output.bytes),
            f"{plan.partitions:,}",
            human_bytes(plan.peak_task_bytes) if plan.peak_task_bytes else "",
            f"{plan.steps:,}" if plan.steps is not None else "",
            f"{plan.gpu_hours:,.1f}" if plan.gpu_hours else "",
            f"{line.usd(rates):,.2f}" if line.usd(rates) >= 0.005 else "",
            plan.note,
        )
    return table


def plan_totals(lines: list[PlannedNode], rates: RatesConfig) -> str:
    """What is still to do, in one line that fits any terminal's wrapping."""
    todo = [line for line in lines if not line.done]
    written = sum(line.plan.output.bytes for line in todo)
    memory = max((line.plan.peak_task_bytes for line in todo), default=0)
    return (
        f"to run: {len(todo)} of {len(lines)} stages; writes {human_bytes(written)}, "
        f"at most {human_bytes(memory)} of memory a task, "
        f"{sum(line.plan.gpu_hours for line in todo):,.1f} GPU hours, "
        f"{sum(line.plan.cpu_hours for line in todo):,.1f} CPU hours, {sum(line.usd(rates) for line in lines):,.2f} USD"
    )


def human_bytes(number: float) -> str:
    """Bytes with a decimal unit, three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"


def _size_of(artifact: Artifact) -> Size:
    counts = artifact.manifest.counts
    files = artifact.manifest.files
    rows = counts.out if counts is not None else sum(file.rows for file in files)
    return Size(rows, sum(file.bytes for file in files))
