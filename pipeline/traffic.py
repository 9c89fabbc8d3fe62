"""What a stage asks of the store, foretold: bytes and requests."""

import math
from dataclasses import dataclass

from pipeline.artifact import WHOLE_BYTES

READ_AHEAD = 8 << 20
"""Bytes that one request of `Storage.open` asks for."""
LIST_PAGE = 1000
"""Objects in one answer to a listing."""
_OVERHEAD = 3
"""Requests for a large table besides those for its columns: its length, and its footer in two reads."""


@dataclass(frozen=True)
class Traffic:
    """Requests by what stores charge for them, and the bytes that come in."""

    read_bytes: int = 0
    gets: int = 0
    """Reads of objects or ranges, and questions for their length."""
    puts: int = 0
    """Writes and listings."""

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.read_bytes + other.read_bytes, self.gets + other.gets, self.puts + other.puts)

    def part(self, number: int, of: int) -> "Traffic":
        """So many of as many equal parts."""
        return Traffic(self.read_bytes * number // of, self.gets * number // of, self.puts * number // of)

    def times(self, number: int) -> "Traffic":
        """The same, so many times."""
        return Traffic(self.read_bytes * number, self.gets * number, self.puts * number)


def writes(num_files: int) -> Traffic:
    """Files put whole, each once."""
    return Traffic(puts=num_files)


def listing(num_objects: int) -> Traffic:
    """All objects below a prefix."""
    return Traffic(puts=max(1, -(-num_objects // LIST_PAGE)))


def sequential(num_files: int, num_bytes: int) -> Traffic:
    """Files read from beginning to end through `Storage.open`."""
    each = num_bytes / max(1, num_files)
    return Traffic(num_bytes, num_files * (1 + math.ceil(each / READ_AHEAD)))


def tables(num_files: int, num_bytes: int, share: float = 1.0, stretches: int = 1, *, at_end: bool = False) -> Traffic:
    """Parquet tables of an artifact, or a share of their bytes where only some columns are wanted.

    Small tables are read whole, whatever is wanted of them (`Artifact.open_table`).

    Args:
        num_files: tables.
        num_bytes: of all tables.
        share: of the bytes that are wanted.
        stretches: runs of neighbouring columns that these lie in; each is read ahead of what is wanted.
        at_end: the last of them ends the table, where there is nothing to read ahead.
    """
    each = num_bytes / max(1, num_files)
    if each <= WHOLE_BYTES:
        return Traffic(num_bytes, num_files)
    wanted = each * share / stretches
    reads = stretches * max(1, math.ceil(wanted / READ_AHEAD))
    ahead = reads * READ_AHEAD
    if at_end:
        ahead = ahead // stretches * (stretches - 1) + math.ceil(wanted)
    return Traffic(int(num_files * min(each, ahead)), num_files * (_OVERHEAD + reads))
