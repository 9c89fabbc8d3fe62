"""`gradsieve submit`: a run as a job of a Ray cluster."""

import getpass
import os
import shlex
import sys
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pipeline.config import RunConfig
from pipeline.errors import InterruptedRunError, UserError
from pipeline.progress import Reporter
from pipeline.storage import Storage, StorageConfig, is_s3
from pipeline.yaml_config import load_config, read_config_text, shipped_names


def submit(
    config: Annotated[
        str | None,
        typer.Argument(help="Shipped name, s3:// URI, or a path in the working directory."),
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="`key.path=value` for any field.")] = None,
    address: Annotated[
        str, typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    working_dir: Annotated[
        str, typer.Option("--working-dir", help="Folder that the driver runs in a copy of; it must hold no data.")
    ] = ".",
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")] = None,
    detach: Annotated[
        bool, typer.Option("--detach/--wait", help="Return at once, or follow the job and end with its exit code.")
    ] = False,
    follow: Annotated[
        str | None, typer.Option("--follow", metavar="JOB", help="Follow a job that was submitted before.")
    ] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="Whose run it is; your user name by default.")] = None,
) -> None:
    """Run a configuration on a Ray cluster, and follow it.

    The configuration is checked here first. The log is shown as it grows; a connection that is lost is taken up
    again. Ctrl-C asks whether to stop the job or to leave it running. Exit codes are those of `gradsieve run`.

    Examples:
    * `gradsieve submit medium.yaml pool.path=s3://bucket/pool/shards pool.metadata=s3://bucket/pool/metadata`

    * `gradsieve submit my.yaml --address http://head:8265 --detach`

    * `gradsieve submit --follow gradsieve-20260102-030405-1a2b3c4d`
    """
    if (config is None) == (follow is None):
        raise UserError(
            "submit what?", expected="a configuration, or --follow JOB", next_step="gradsieve submit --help"
        )
    reporter = Reporter()
    if config is not None:
        words = [*(overrides or []), *(["--until", until] if until else [])]
        follow = _submitted(config, words, address, working_dir, owner, reporter)
        if detach:
            reporter.say(f"follow it: gradsieve submit --follow {follow} --address {address}")
            return
    assert follow is not None
    sys.exit(_followed(address, follow, reporter))


def _submitted(
    config: str, words: list[str], address: str, working_dir: str, owner: str | None, reporter: Reporter
) -> str:
    """The id of the job that was started."""
    folder = Path(working_dir).expanduser().resolve()
    if not folder.is_dir():
        raise UserError("no such working directory", where=folder)
    name = _name_there(config, folder)
    text = read_config_text(config if is_s3(config) or config in shipped_names() else str(folder / name), _storage())
    parsed = load_config(RunConfig, text, list(takewhile(lambda word: word != "--until", words)), config)
    for key, place in (("output", parsed.output), ("pool.path", parsed.pool.path)):
        if not is_s3(place) and not Path(place).is_absolute():
            raise UserError(
                f"{key} is a path relative to a folder that exists on the cluster for this job alone",
                where=config,
                expected="an s3:// URI, or an absolute path that all nodes share",
                found=place,
                next_step=f"set it: gradsieve submit {config} {key}=s3://bucket/...",
            )
    from cluster.jobs import Job, Jobs  # Ray is paid for only here

    mode = os.environ.setdefault("RAY_AUTH_MODE", parsed.cluster.auth_mode or "token")
    job = Job(
        entrypoint=shlex.join(["python", "-m", "pipeline.run", name, *words]),
        working_dir=str(folder),
        metadata={"run": parsed.output, "config": config, "owner": owner or getpass.getuser()},
        grace_seconds=parsed.cluster.grace_seconds,
        environment={"RAY_AUTH_MODE": mode},
    )
    submission_id = f"gradsieve-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(4).hex()}"
    Jobs(address).submit(job, submission_id)
    reporter.say(f"submitted {submission_id}; its run is {parsed.output}")
    return submission_id


def _name_there(config: str, folder: Path) -> str:
    """What the driver calls the configuration: shipped ones and s3:// URIs as they are, files below its folder."""
    if is_s3(config) or config in shipped_names():
        return config
    path = (Path(config) if Path(config).is_absolute() or Path(config).exists() else folder / config).resolve()
    if not path.is_relative_to(folder):
        raise UserError(
            "the configuration does not travel with the job",
            where=path,
            expected=f"a file below {folder}, a shipped name or an s3:// URI",
            next_step="copy it there, put it into storage, or name its folder with --working-dir",
        )
    return str(path.relative_to(folder))


def _followed(address: str, submission_id: str, reporter: Reporter) -> int:
    """The driver's exit code."""
    from cluster.jobs import Jobs

    os.environ.setdefault("RAY_AUTH_MODE", "token")
    jobs = Jobs(address)
    while True:
        try:
            return jobs.follow(submission_id, lambda text: typer.echo(text, nl=False), reporter.warn)
        except KeyboardInterrupt:
            answer = _asked(submission_id)
            if answer == "f":
                continue
            if answer == "s":
                reporter.say(f"stopping {submission_id}")
                jobs.stop(submission_id)
                continue
            _leave(submission_id, address)


def _asked(submission_id: str) -> str:
    """What to do about a job that still runs: `s`top, `d`etach or `f`ollow."""
    if not sys.stdin.isatty():
        return "d"
    answer = typer.prompt(f"\n{submission_id} still runs: [s]top it, [d]etach, go on [f]ollowing", default="d")
    return str(answer).strip().lower()[:1]


def _leave(submission_id: str, address: str) -> NoReturn:
    raise InterruptedRunError(
        f"{submission_id} runs on without this terminal",
        next_step=f"gradsieve submit --follow {submission_id} --address {address}; stop it: "
        f"ray job stop --address {address} {submission_id}",
    ) from None


def _storage() -> Storage:
    return Storage(StorageConfig())
