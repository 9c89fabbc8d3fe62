"""A sample's bytes in a shard to what a model sees: pixels and caption."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from stages.formats.image import Decode, ImageError, decode_image_into
from stages.formats.pair import PairError, pair_of
from stages.formats.tar import read_members


class Sample(NamedTuple):
    """An image-text pair, decoded."""

    pixels: NDArray[np.uint8]
    """[3, S, S] RGB."""
    caption: str


def decode_sample(data: bytes | memoryview, image_size: int, *, where: str) -> Sample:
    """Decode the members of one sample.

    Args:
        data: consecutive tar members, headers included.
        image_size: side S of the square image.
        where: file, offset and uid, for the message.

    Raises:
        RunError: the bytes are not those of a usable sample, although the pool's index lists it.
    """
    pixels = np.empty((3, image_size, image_size), np.uint8)
    return Sample(pixels, decode_sample_into(data, pixels, where=where))


def decode_sample_into(
    data: bytes | memoryview, pixels: NDArray[np.uint8], *, where: str, decode: Decode = "exact"
) -> str:
    """`decode_sample` into memory that exists already; gives the caption.

    Args:
        data: consecutive tar members, headers included.
        pixels: [3, S, S], to be filled.
        where: file, offset and uid, for the message.
        decode: how the image is decoded.

    Raises:
        RunError: as `decode_sample`.
    """
    try:
        members = read_members(bytes(data))
    except RunError as error:
        raise RunError(
            "a sample's bytes are not what the pool's index says",
            where=where,
            expected=error.parts["expected"],
            found=error.parts["found"],
            next_step="the shard changed after it was indexed; run again to index it anew",
        ) from error
    try:
        pair = pair_of(members)
        decode_image_into(pair.image, pixels, decode)
    except (ImageError, PairError) as error:
        raise RunError(
            "a sample that the index calls usable cannot be read",
            where=where,
            expected="an image and a caption",
            found=error,
            next_step="let the pool stage decode every image (`pool.check`), so that it is quarantined",
        ) from error
    return pair.caption


def sample_place(uri: str, offset: int, uid_hi: int, uid_lo: int) -> str:
    """Where a sample lies, as messages say it."""
    return f"{uri}, offset {offset}, uid {uid_hi:016x}{uid_lo:016x}"
