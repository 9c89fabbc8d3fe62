"""`gradsieve status`: how far a run came, from its record alone."""

from collections.abc import Mapping
from typing import Any, Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.meter import Usage

STYLES = {
    "done": "green",
    "reused": "green",
    "running": "yellow",
    "stopped": "yellow",
    "failed": "red",
    "waiting": "dim",
}
"""Style of each state that a stage or a run can be in."""
ABANDONED = "No process is at work on it any more: it was killed, or its machine went down. The same command goes on."


def status_view(record: Mapping[str, Any], *, abandoned: bool = False) -> RenderableType:
    """Stages with their state, samples, seconds and place, and how the run stands as a whole.

    Args:
        record: as `pipeline.run_record.read_record` gives it.
        abandoned: whether it is certain that no process works on the run.
    """
    stages: Mapping[str, Mapping[str, Any]] = record["stages"]
    parts: list[RenderableType] = [_heading(record, stages), _stages(stages)]
    if abandoned and record["state"] == "running":
        parts.append(Text(ABANDONED, style="yellow"))
    if record.get("error"):
        parts.append(Text(str(record["error"]), style="red"))
    return Group(*parts)


def _heading(record: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]) -> Text:
    finished = sum(stage["state"] in ("done", "reused") for stage in stages.values())
    state = str(record["state"])
    text = Text.assemble(
        (state, STYLES.get(state, "bold")),
        f", {finished} of {len(stages)} stages finished; configuration {str(record['config_digest'])[:16]}, "
        f"started {record['started']}",
    )
    if record.get("finished"):
        text.append(f", ended {record['finished']}")
    used = Usage.from_record(record.get("used"))
    if used.attempts:
        text.append(
            f"; used {used.hours:,.2f} h, {used.cpu_hours:,.2f} core hours and {used.gpu_hours:,.2f} GPU hours "
            f"in {used.attempts} attempt(s)"
        )
    return text


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [_row(name, stage) for name, stage in stages.items()]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    shown = [column for column in ("stage", "state", "seconds", "counts", "where") if any(row[column] for row in rows)]
    for column in shown:
        justify: Literal["left", "right"] = "right" if column == "seconds" else "left"
        table.add_column(column, justify=justify, no_wrap=column not in ("counts", "where"), overflow="fold")
    for row in rows:
        table.add_row(*(row[column] for column in shown))
    return table


def _row(name: str, stage: Mapping[str, Any]) -> dict[str, Text]:
    state, seconds = str(stage["state"]), stage.get("seconds")
    return {
        "stage": Text(name),
        "state": Text(state, style=STYLES.get(state, "")),
        "seconds": Text(f"{seconds:,.1f}" if seconds is not None else ""),
        "counts": Text(_counts(stage.get("counts"))),
        "where": Text(str(stage.get("root", ""))),
    }


def _counts(counts: Mapping[str, Any] | None) -> str:
    """Samples in and out, where the record holds the stage's counts."""
    if not counts:
        return ""
    parts = [f"{counts['seen']:,} in", f"{counts['out']:,} out"]
    dropped = sum(counts.get("dropped", {}).values())
    parts += [f"{dropped:,} dropped"] if dropped else []
    parts += [f"{counts['quarantined']:,} quarantined"] if counts.get("quarantined") else []
    return ", ".join(parts)
