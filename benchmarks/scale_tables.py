"""The tables of docs/SCALE.md, from the plans of the shipped configurations: `python -m benchmarks.scale_tables`.

Rewrites what stands between the marks in the document.
"""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from pipeline.curation import Curation
from pipeline.plan import PlannedNode, human_bytes, human_count, make_plan
from pipeline.progress import Reporter
from pipeline.rates import RatesConfig

DOCUMENT = Path(__file__).parents[1] / "docs" / "SCALE.md"
BEGIN, END = "<!-- tables: python -m benchmarks.scale_tables -->", "<!-- end of tables -->"
SCALES = {"small": "12.8 million", "medium": "128 million", "large": "1.28 billion", "xlarge": "12.8 billion"}
HEADS = (
    "stage",
    "rows",
    "reads",
    "writes",
    "requests",
    "tasks",
    "files",
    "a task holds",
    "driver holds",
    "GPU h",
    "CPU h",
    "USD",
)


def planned(name: str) -> tuple[list[PlannedNode], RatesConfig]:
    """Plan of a shipped configuration whose pool is nowhere."""
    text = files("pipeline.configs").joinpath(f"{name}.yaml").read_text()
    places = ["output=/nowhere/run", "pool.path=/nowhere/shards", "pool.metadata=/nowhere/metadata"]
    curation = Curation.from_text(text, places, f"{name}.yaml", Reporter())
    return make_plan(curation.graph(), {}, curation.config.plan.rates), curation.config.plan.rates


def tables() -> str:
    """All scales in Markdown."""
    return "\n".join(line for name, pairs in SCALES.items() for line in _table(name, pairs))


def rewritten(document: str) -> str:
    """The document with the tables as they are now."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


def _table(name: str, pairs: str) -> Iterator[str]:
    lines, rates = planned(name)
    yield f"### {pairs} pairs (`{name}.yaml`)"
    yield ""
    yield f"| {' | '.join(HEADS)} |"
    yield "|---|" + "--:|" * (len(HEADS) - 1)
    for line in lines:
        yield f"| {' | '.join(_cells(line, rates))} |"
    yield f"| {' | '.join(_sums(lines, rates))} |"
    yield ""


def _cells(line: PlannedNode, rates: RatesConfig) -> list[str]:
    plan = line.plan
    return [
        line.name,
        f"{plan.output.rows:,}",
        human_bytes(plan.traffic.read_bytes),
        human_bytes(line.written),
        human_count(plan.traffic.gets + plan.traffic.puts),
        f"{plan.partitions:,}",
        f"{plan.num_files:,}",
        human_bytes(plan.peak_task_bytes),
        human_bytes(plan.driver_bytes),
        f"{plan.gpu_hours:,.1f}",
        f"{line.cpu_hours(rates):,.1f}",
        f"{line.usd(rates):,.2f}",
    ]


def _sums(lines: list[PlannedNode], rates: RatesConfig) -> list[str]:
    plans = [line.plan for line in lines]
    return [
        "all",
        "",
        human_bytes(sum(plan.traffic.read_bytes for plan in plans)),
        human_bytes(sum(line.written for line in lines)),
        human_count(sum(plan.traffic.gets + plan.traffic.puts for plan in plans)),
        f"{sum(plan.partitions for plan in plans):,}",
        f"{sum(plan.num_files for plan in plans):,}",
        human_bytes(max(plan.peak_task_bytes for plan in plans)),
        human_bytes(max(plan.driver_bytes for plan in plans)),
        f"{sum(plan.gpu_hours for plan in plans):,.1f}",
        f"{sum(line.cpu_hours(rates) for line in lines):,.1f}",
        f"{sum(line.usd(rates) for line in lines):,.2f}",
    ]


if __name__ == "__main__":
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text()))
