"""A process that decodes for a rank: encoded bytes come through a socket, pixels go to shared memory.

It ends when its socket is closed, so it does not outlive its rank, however that one ended.
"""

import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from pipeline.errors import GradsieveError
from stages.formats.image import Decode
from stages.models.config import ModelConfig
from stages.train.decoder import Decoder, Encoded
from stages.train.shared_batches import BatchShape, SharedBatches


class Setup(NamedTuple):
    """What a decoding process is told first."""

    model: ModelConfig
    decode: Decode
    shape: BatchShape
    num_slots: int


class Request(NamedTuple):
    """A piece of work; its encoded bytes follow, one sample behind the other."""

    slot: int
    start: int
    """First row."""
    lengths: list[int]
    places: list[str]


def _serve(connection: "Connection[Any, Any]", file: int) -> None:
    """The loop of a decoding process."""
    setup: Setup = connection.recv()
    memory = SharedBatches(setup.shape, setup.num_slots, file)
    decoder = Decoder(setup.model, setup.decode)
    while True:
        request: Request = connection.recv()
        data = memoryview(connection.recv_bytes())
        try:
            decoder.fill(_encoded(request, data), *_target(memory, request))
            connection.send(None)
        except GradsieveError as error:
            connection.send(error)
        except Exception:  # a defect: told where somebody reads it
            connection.send(RuntimeError(f"in a decoding process:\n{traceback.format_exc()}"))


def _encoded(request: Request, data: memoryview) -> Encoded:
    pieces, begin = [], 0
    for length in request.lengths:
        pieces.append(data[begin : begin + length])
        begin += length
    return Encoded(pieces, request.places)


def _target(memory: SharedBatches, request: Request) -> tuple[Any, Any]:
    batch, rows = memory.at(request.slot), slice(request.start, request.start + len(request.lengths))
    return batch.images[rows], batch.tokens[rows]


def main() -> None:
    """Serve until the rank hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the rank decides
    try:
        _serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
    except (EOFError, ConnectionError):
        os._exit(0)  # nothing is left to do, and taking torch down takes a while


if __name__ == "__main__":
    main()
