"""`gradsieve status`: how far a run came, from its record alone."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

STYLES = {"done": "green", "reused": "green", "running": "yellow", "failed": "red", "waiting": "dim"}
"""Style of each state that a stage or a run can be in."""


def status_view(record: Mapping[str, Any]) -> RenderableType:
    """Stages with their state, rows, seconds and place, and how the run stands as a whole.

    Args:
        record: as `pipeline.run_record.read_record` gives it.
    """
    stages: Mapping[str, Mapping[str, Any]] = record["stages"]
    parts: list[RenderableType] = [_heading(record, stages), _stages(stages)]
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
    return text


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table()
    for column in ("stage", "state", "rows", "seconds", "what came of it", "where"):
        table.add_column(column, justify="right" if column in ("rows", "seconds") else "left", overflow="fold")
    for name, stage in stages.items():
        state = str(stage["state"])
        seconds = stage.get("seconds")
        table.add_row(
            Text(name),
            Text(state, style=STYLES.get(state, "")),
            f"{stage['rows']:,}" if stage.get("rows") is not None else "",
            f"{seconds:,.1f}" if seconds is not None else "",
            Text(_counts(stage.get("counts"))),
            Text(str(stage.get("root", ""))),
        )
    return table


def _counts(counts: Mapping[str, Any] | None) -> str:
    """Samples in and out, where the record holds the stage's counts."""
    if not counts:
        return ""
    parts = [f"{counts['seen']:,} in", f"{counts['out']:,} out"]
    dropped = sum(counts.get("dropped", {}).values())
    parts += [f"{dropped:,} dropped"] if dropped else []
    parts += [f"{counts['quarantined']:,} quarantined"] if counts.get("quarantined") else []
    return ", ".join(parts)
