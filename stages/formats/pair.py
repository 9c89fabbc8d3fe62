"""One sample's bytes in a shard: its image file and its caption."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from stages.formats.tar import split_name

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
"""Endings of image members, as open_clip takes them."""


class Pair(NamedTuple):
    """An image-text pair as stored."""

    image: bytes
    """The encoded image."""
    caption: str


class PairError(ValueError):
    """A sample's members hold no image, or no caption."""


def pair_of(members: Sequence[tuple[str, bytes]]) -> Pair:
    """Image and caption among the members of one sample: `.txt`, or else `caption` in `.json`.

    Raises:
        PairError: one of them is missing or not readable as text.
    """
    by_ending = {split[1]: data for name, data in members if (split := split_name(name)) is not None}
    ending = next((ending for ending in IMAGE_EXTENSIONS if ending in by_ending), None)
    if ending is None:
        raise PairError(f"no image among the members {sorted(name for name, _ in members)}")
    return Pair(by_ending[ending], _caption(by_ending))


def _caption(by_ending: dict[str, bytes]) -> str:
    try:
        if "txt" in by_ending:
            return by_ending["txt"].decode()
        caption = json.loads(by_ending["json"])["caption"]
    except (KeyError, TypeError, ValueError) as error:
        raise PairError(f"no caption in .txt or .json: {error!r}") from error
    if not isinstance(caption, str):
        raise PairError(f"the caption in .json is no text: {caption!r}")
    return caption
