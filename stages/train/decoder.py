"""Encoded samples to rows of a batch: pixels and tokens, in whichever thread or process."""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.formats.image import Decode
from stages.formats.sample import decode_sample_into
from stages.models.config import ModelConfig


class Encoded(NamedTuple):
    """Samples as they are stored."""

    data: Sequence[bytes | memoryview]
    """Consecutive tar members of each."""
    places: Sequence[str]
    """File, offset and uid of each, for messages."""


class Decoder:
    """Fills rows of a batch; may be used by several threads."""

    def __init__(self, model: ModelConfig, decode: Decode) -> None:
        """Load the model's tokenizer."""
        from stages.models.build import build_tokenizer  # brings torch, which naming this module must not

        self._decode: Decode = decode
        self._tokenizer: Any = build_tokenizer(model)
        self._lock = threading.Lock()

    def fill(self, encoded: Encoded, images: NDArray[np.uint8], tokens: NDArray[np.int64]) -> None:
        """Decode and tokenise.

        Args:
            encoded: n samples.
            images: [n, 3, S, S], to be filled.
            tokens: [n, context], to be filled.

        Raises:
            RunError: a sample's bytes are not what the pool's index says; names file, offset and uid.
        """
        captions = [
            decode_sample_into(data, pixels, where=place, decode=self._decode)
            for data, place, pixels in zip(encoded.data, encoded.places, images, strict=True)
        ]
        with self._lock:  # tokenizers of Hugging Face are not safe to share between threads
            tokens[:] = self._tokenizer(captions)


_decoders: dict[tuple[str, Decode], Decoder] = {}


def decoder_for(model: ModelConfig, decode: Decode) -> Decoder:
    """The decoder of a model, built once in a process: a tokenizer takes a while to load."""
    key = (model.model_dump_json(), decode)
    if key not in _decoders:
        _decoders[key] = Decoder(model, decode)
    return _decoders[key]
