"""`gradsieve explain`: one sample's story as people read it."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.artifact import Artifact

_READER = "stages.report.explain"
"""Knows how tables are cut and joined; imported when it is asked."""
_VOTES = {1: "keep", 0: "drop", -1: "abstains"}


def explain_view(artifacts: Mapping[str, Artifact], uid: str) -> RenderableType:
    """Why a sample was kept, dropped or quarantined.

    Args:
        artifacts: finished artifacts of the run by name.
        uid: up to 32 hexadecimal digits.

    Raises:
        UserError: no such sample.
    """
    found = import_module(_READER).explain(artifacts, uid)
    parts: list[RenderableType] = [_heading(found), _facts(found)]
    if found.scores:
        parts += ["", _scores(found.scores), *_passes(found.scores)]
    if found.votes:
        parts += ["", _votes(found.votes)]
    return Group(*parts)


def _heading(found: Any) -> Text:
    if found.quarantined:
        return Text.assemble((found.uid, "bold"), "  ", ("quarantined", "magenta"), f": {found.quarantined[0]}")
    if found.reason is None:
        return Text.assemble((found.uid, "bold"), "  not decided yet: the selection has not run")
    if found.reason == "kept":
        return Text.assemble((found.uid, "bold"), "  ", ("kept", "green"))
    return Text.assemble((found.uid, "bold"), "  ", ("dropped", "red"), f": {found.reason}")


def _facts(found: Any) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 2))
    place = found.place
    length = f", {place.length:,} bytes" if place.length is not None else ""
    _add(table, "pool shard", place.shard)
    _add(table, "member", f"{place.member} at offset {place.offset:,}{length}")
    if found.quarantined and found.quarantined[1]:
        _add(table, "detail", found.quarantined[1])
    for name, value in found.decision.items():
        if value is not None and name != "pattern":
            _add(table, name.replace("score__", "mean score of "), f"{value:.4f}")
    if found.output_shard:
        _add(table, "output shard", found.output_shard)
    return table


def _add(table: Table, name: str, value: str) -> None:
    """A line of text from the pool: never taken as markup."""
    table.add_row(Text(name, style="dim"), Text(value))


def _scores(scores: Any) -> Table:
    columns = {
        "selector": [score.selector for score in scores],
        "visit": [str(score.visit) for score in scores],
        "score": [f"{score.score + 0.0:.4g}" for score in scores],  # + 0.0: no minus zero
        "in batch": [_optional(score.rank, ".1%") for score in scores],
        "in pool": [f"{score.percentile:.1%}" for score in scores],
        "weight": [_optional(score.weight, ".3g") for score in scores],
        "loss": [_optional(score.loss, ".4g") for score in scores],
        "step": [str(score.step) if score.step >= 0 else "" for score in scores],
    }
    title = "scores: higher means keep; in batch, in pool: share that scores lower"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    shown = {name: values for name, values in columns.items() if any(values)}
    for name in shown:
        table.add_column(
            name, justify="left" if name == "selector" else "right", no_wrap=name != "selector", overflow="fold"
        )
    for row in zip(*shown.values(), strict=True):
        table.add_row(*map(Text, row))
    return table


def _passes(scores: Any) -> list[Text]:
    """Which scores of a pool that grew come from where."""
    return [
        Text(f"{score.selector}, visit {score.visit}: by {score.made_by}", style="dim")
        for score in scores
        if score.made_by is not None
    ]


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _votes(votes: Mapping[str, int]) -> Table:
    table = Table(title="votes", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("voter")
    table.add_column("says")
    for name, vote in votes.items():
        table.add_row(Text(name), _VOTES[vote])
    return table
