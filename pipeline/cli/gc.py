"""`gradsieve gc`: the one command that deletes."""

from collections import defaultdict
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.cli.inspect import EndpointOption
from pipeline.gc import Doomed, Verdict, collect
from pipeline.plan import human_bytes
from pipeline.progress import Reporter
from pipeline.storage import Storage, StorageConfig, absolute


def gc(
    series: Annotated[str, typer.Argument(metavar="SERIES", help="Folder or s3:// prefix of runs made with --dated.")],
    keep: Annotated[int, typer.Option("--keep", min=1, help="How many finished runs stay, the newest ones.")] = 7,
    delete: Annotated[bool, typer.Option("--delete", help="Delete; without it only say what would go.")] = False,
    endpoint_url: EndpointOption = None,
) -> None:
    """Of a series of runs keep the last ones, and delete what none of those refers to.

    Kept are the newest finished runs, and those that were begun after the newest of them: they may still go on. Of the
    series' own store goes what no kept run refers to; a store elsewhere is left alone. Refused while a run of the
    series is at work (exit code 3).

    Examples:
    * `gradsieve gc s3://bucket/nightly --keep 7`, to see what would go

    * `gradsieve gc s3://bucket/nightly --keep 7 --delete`
    """
    console = Console(soft_wrap=True)

    def agree(verdict: Verdict) -> bool:
        console.print(_table(verdict))
        return delete

    storage = Storage(StorageConfig(endpoint_url=endpoint_url))
    verdict = collect(absolute(series), storage, Reporter(), keep=keep, agree=agree)
    files = sum(len(doomed.files) for doomed in verdict.doomed)
    size = human_bytes(sum(doomed.num_bytes for doomed in verdict.doomed))
    done = "deleted" if delete else "would be deleted (nothing was; say --delete)"
    console.print(f"{len(verdict.kept)} runs kept; {files:,} files of {size} {done}", highlight=False)


def _table(verdict: Verdict) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("what", "state", "files", "size"):
        table.add_column(column, justify="right" if column in ("files", "size") else "left", overflow="fold")
    for run in verdict.kept:
        table.add_row(run.output, f"kept ({run.state})", "", "")
    for doomed in verdict.doomed:
        if not doomed.is_entry:
            table.add_row(doomed.root, "goes", f"{len(doomed.files):,}", human_bytes(doomed.num_bytes))
    entries: defaultdict[str, list[Doomed]] = defaultdict(list)
    for doomed in verdict.doomed:
        if doomed.is_entry:
            entries[doomed.root.rpartition("/")[0]].append(doomed)
    for kind, group in sorted(entries.items()):  # thousands, of which nobody wants to read each
        files, size = sum(len(doomed.files) for doomed in group), sum(doomed.num_bytes for doomed in group)
        table.add_row(f"{kind}: {len(group):,} entries", "go", f"{files:,}", human_bytes(size))
    return table
