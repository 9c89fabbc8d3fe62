"""`gradsieve status` and `gradsieve explain`: look at a run through its storage alone."""

from typing import Annotated

import typer
from rich.console import Console

from pipeline.run_record import open_artifacts, read_record
from pipeline.status import status_view
from pipeline.storage import Storage, StorageConfig

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Output folder or s3:// URI of a run.")]
EndpointOption = Annotated[str | None, typer.Option("--endpoint-url", help="S3 service that holds the run.")]


def status(run: RunArgument, endpoint_url: EndpointOption = None) -> None:
    """Show how far a run came, stage by stage.

    Example: `gradsieve status runs/demo`
    """
    storage = Storage(StorageConfig(endpoint_url=endpoint_url))
    Console().print(status_view(read_record(run, storage)))


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
