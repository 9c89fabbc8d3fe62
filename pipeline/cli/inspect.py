"""`gradsieve status`, `explain` and `verify`: look at a run through its storage alone."""

import json
from typing import Annotated

import typer
from rich.console import Console

from pipeline.errors import RunError
from pipeline.lease import is_abandoned
from pipeline.plan import human_bytes
from pipeline.progress import Reporter
from pipeline.run_log import follow_log, read_log
from pipeline.run_record import open_artifacts, read_record
from pipeline.status import status_view
from pipeline.storage import Storage, StorageConfig, absolute

_SHOWN = 20
"""Differences and orphans that are told one by one."""
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Output folder or s3:// URI of a run.")]
EndpointOption = Annotated[str | None, typer.Option("--endpoint-url", help="S3 service that holds the run.")]


def status(run: RunArgument, endpoint_url: EndpointOption = None) -> None:
    """Show how far a run came, stage by stage.

    Example: `gradsieve status runs/demo`
    """
    storage = Storage(StorageConfig(endpoint_url=endpoint_url))
    Console().print(status_view(read_record(run, storage), abandoned=is_abandoned(absolute(run), storage)))


def log(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until Ctrl-C.")] = False,
    endpoint_url: EndpointOption = None,
) -> None:
    """Print the log that a run keeps in its own storage, as JSON lines, of all its attempts.

    Example: `gradsieve log s3://bucket/runs/medium --follow`
    """
    storage = Storage(StorageConfig(endpoint_url=endpoint_url))
    output = absolute(run)
    read_record(run, storage)  # a run must be there
    for event in follow_log(output, storage) if follow else read_log(output, storage):
        typer.echo(json.dumps(event, ensure_ascii=False))


def explain(
    run: RunArgument,
    uid: Annotated[str, typer.Argument(metavar="UID", help="Hexadecimal uid of a sample, up to 32 digits.")],
    endpoint_url: EndpointOption = None,
) -> None:
    """Say why one sample was kept or dropped: where it lies, each score, each vote, the decision.

    Example: `gradsieve explain runs/demo 0123456789abcdef0123456789abcdef`
    """
    from pipeline.explain import explain_view  # polars and the stages' readers are paid for only here

    Console().print(explain_view(open_artifacts(run, Storage(StorageConfig(endpoint_url=endpoint_url))), uid))


def verify(run: RunArgument, endpoint_url: EndpointOption = None) -> None:
    """Read a finished run again and check it: every digest, every count, every kept sample in its place.

    Trusts none of the run's own summaries and changes nothing; a copied run verifies where it lies. Exit code 1 if
    anything differs, with the first differences.

    Example: `gradsieve verify runs/demo`
    """
    from pipeline.verify import verify as verify_run

    verdict = verify_run(run, Storage(StorageConfig(endpoint_url=endpoint_url)), Reporter())
    print_line = Console(soft_wrap=True).print
    print_line(
        f"{verdict.num_artifacts} artifacts, {verdict.num_files:,} files, {human_bytes(verdict.num_bytes)} read again; "
        f"beside them {verdict.unlisted.num_private:,} private files of the stages, which are not read, "
        f"and {len(verdict.unlisted.orphans):,} orphans",
        highlight=False,
    )
    for orphan in verdict.unlisted.orphans[:_SHOWN]:
        print_line(f"orphan: {orphan}", highlight=False, markup=False)
    for unchecked in verdict.unchecked:
        print_line(f"not checked: {unchecked}", highlight=False, markup=False)
    if verdict.differences:
        shown = "\n".join(str(difference) for difference in verdict.differences[:_SHOWN])
        raise RunError(f"the run differs from its manifests in {len(verdict.differences):,} place(s)\n{shown}")
    print_line("the run is whole", highlight=False)
