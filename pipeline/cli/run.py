"""`gradsieve run`: a configuration in, a subset and shards out."""

from typing import Annotated

import typer
from rich.console import Console

from pipeline.curation import Curation
from pipeline.errors import InterruptedRunError, TerminatedRunError
from pipeline.progress import Reporter
from pipeline.storage import Storage, StorageConfig
from pipeline.termination import Terminated, end_at_sigterm
from pipeline.yaml_config import read_config_text, shipped_names

_GOES_ON = "the same command goes on from here"
_PIPE_WIDTH = 160
"""Columns of a table that goes into a file or a pipe: nothing is cut."""


def run(
    config: Annotated[str, typer.Argument(help=f"Shipped name ({', '.join(shipped_names())}), path or s3:// URI.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="`key.path=value` for any field.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would run and what it would cost; do nothing.")
    ] = False,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")] = None,
    dated: Annotated[
        bool,
        typer.Option("--dated", help="Take `output` for a series: the run is a folder in it, named by the time."),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait while another run holds the output, instead of exit code 3.")
    ] = False,
) -> None:
    """Run a configuration, or what is left of it.

    What is finished is never done twice: run the same command again after a crash, or after a change to the
    configuration, and only what depends on the change runs.

    Examples:
    * `gradsieve run demo.yaml`

    * `gradsieve run demo.yaml output=runs/half select.rule.top.fraction=0.5`

    * `gradsieve run medium.yaml pool.path=s3://bucket/pool/shards pool.metadata=s3://bucket/pool/metadata --plan`

    * `gradsieve run my.yaml --until train`

    * `gradsieve run nightly.yaml --dated --wait`, on a schedule: each run in a folder of its own, unchanged work reused
    """
    end_at_sigterm()
    try:
        text = read_config_text(config, Storage(StorageConfig()))
        curation = Curation.from_text(text, overrides or [], config, Reporter(), dated=dated)
        if plan:
            table, totals = curation.plan(until)
            console = Console()
            (console if console.is_terminal else Console(width=_PIPE_WIDTH)).print(table)
            typer.echo(totals)
            return
        for line in curation.run(until, wait=wait):
            typer.echo(line)
    except Terminated:
        raise TerminatedRunError("told to end (SIGTERM)", next_step=_GOES_ON) from None
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted", next_step=_GOES_ON) from None
