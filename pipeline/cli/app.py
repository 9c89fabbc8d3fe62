"""The `gradsieve` command: what it offers, and how errors and exit codes leave it."""

import atexit
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from pipeline import __version__
from pipeline.cli import gc as gc_command
from pipeline.cli import inspect as inspect_commands
from pipeline.cli import pool as pool_commands
from pipeline.cli import run as run_command
from pipeline.cli import submit as submit_command
from pipeline.disk_errors import disk_error
from pipeline.errors import GradsieveError

app = typer.Typer(
    name="gradsieve",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Decide which image-text pairs of a web-crawled pool are worth training on.

Try it: `gradsieve pool make data/demo`, then `gradsieve run demo.yaml`.

Exit codes: 0 ok, 1 the run failed, 2 the configuration or an input is at fault, 3 another run holds the output,
130 interrupted, 143 told to end by SIGTERM.""",
)
app.command("run")(run_command.run)
app.command("submit")(submit_command.submit)
app.command("status")(inspect_commands.status)
app.command("log")(inspect_commands.log)
app.command("explain")(inspect_commands.explain)
app.command("verify")(inspect_commands.verify)
app.command("gc")(gc_command.gc)
app.add_typer(pool_commands.app, name="pool")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gradsieve {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    del version


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code; a fault of the user's is one message, never a traceback."""
    for library in ("torch", "ray", "open_clip", "snorkel", "networkx"):
        warnings.filterwarnings("ignore", module=rf"{library}(\.|$)")  # what they deprecate is no news to a user
    try:
        app(list(arguments) if arguments is not None else None)
    except GradsieveError as error:
        _fail(f"error: {error}", error.exit_code)
    except OSError as error:
        known = disk_error(error)
        if known is None:
            _unexpected(error)
        else:
            _fail(f"error: {known}", known.exit_code)
    except Exception as error:  # a defect of ours: short at the end, whole above for a developer
        _unexpected(error)


def program(arguments: Sequence[str] | None = None) -> NoReturn:
    """`main` as a process of its own, which ends with the exit code that it earned.

    Thread pools of libraries written in C++ are destroyed as a process ends, and now and then abort it there
    ("terminate called without an active exception"): a scheduler would see signal 6 after a run that ended well. So
    everything that Python has registered for its end is run, and the destructors are not.
    """
    code: object = 0
    try:
        main(arguments)
    except SystemExit as end:
        code = end.code
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it is gone
            stream.flush()
    os._exit(code if isinstance(code, int) else int(bool(code)))


def _unexpected(error: Exception) -> None:
    traceback.print_exception(error)
    _fail(f"error: unexpected {type(error).__name__}: {error}\n  next: please report this with the lines above", 1)


def _fail(message: str, code: int) -> None:
    typer.echo(message, err=True)
    sys.exit(code)


if __name__ == "__main__":
    program()
