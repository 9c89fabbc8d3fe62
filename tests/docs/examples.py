"""Every command that the documents, the shipped configurations and the help texts show."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import typer

from pipeline.cli.app import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "recipes" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
_CONFIGURATIONS = (*sorted((ROOT / "pipeline" / "configs").glob("*.yaml")), *sorted((ROOT / "recipes").glob("*.yaml")))
_COMMAND = re.compile(r"(gradsieve|python -m|make|pip) ")
_TICKED = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Example:
    """One command, as a reader would type it."""

    where: str
    line: str

    def __str__(self) -> str:
        return f"{self.where}: {self.line}"

    @property
    def words(self) -> list[str]:
        """What a shell makes of it; comments are none of it."""
        return shlex.split(self.line, comments=True)


def examples() -> list[Example]:
    """All of them, in the order of reading; one that is shown twice comes twice."""
    found = [Example(path.name, line) for path in DOCUMENTS for line in _commands_of(path.read_text())]
    for path in _CONFIGURATIONS:
        comments = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
        found += [Example(path.name, line) for line in re.findall(r"(gradsieve [^`\n]+)", comments)]
    for name, command in commands():
        found += [Example(f"{name} --help", line) for line in _commands_of(command.help or "")]
    return found


def commands() -> Iterator[tuple[str, click.Command]]:
    """`gradsieve` and every command and group below it, by the words that call it."""
    yield from _below("gradsieve", typer.main.get_command(app))


def _below(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from _below(f"{name} {word}", inner)


def _commands_of(text: str) -> list[str]:
    """Lines of indented blocks and what stands in backticks, where it is a command."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    block = [line.strip() for line in lines if line.startswith("    ")]
    prose = "\n".join(line for line in lines if not line.startswith("    "))
    ticked = [" ".join(span.split()) for span in _TICKED.findall(prose)]
    return [line for line in (*block, *ticked) if _COMMAND.match(line)]
