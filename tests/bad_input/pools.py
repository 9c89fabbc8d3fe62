"""How cases that are a pool are written down."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.bad_input.case import Case, Outcome
from tests.bad_input.through import Pool, through_pool
from tests.stages.pool.pools import Members, Pair, archive, jpeg, pair

BAD = 50
"""Number of the sample that has the ill."""


def case(name: str, family: str, outcome: Outcome, *wanted: str, build: Callable[[], Pool]) -> Case:
    """A case that the pool stage reads."""
    return Case(name, family, outcome, wanted, partial(through_pool, lambda root: build()))


def written(name: str, family: str, outcome: Outcome, *wanted: str, build: Callable[[Path], Pool]) -> Case:
    """The same, for what needs to know its folder."""
    return Case(name, family, outcome, wanted, partial(through_pool, build))


def between(members: Members) -> Pool:
    """A sample with the ill between two good ones."""
    return Pool(archive([*pair(1).members(), *members, *pair(2).members()]), good=(1, 2))


def sample(
    *,
    image: bytes | None = None,
    ending: str = "jpg",
    json: bytes | None = None,
    txt: bytes | None = None,
    without: str = "",
) -> Members:
    """A sample as img2dataset names it, with other bytes in one of its members, or without one."""
    whole = pair(BAD)
    key = whole.key
    found: dict[str, bytes] = {name.rpartition(".")[2]: data for name, data in whole.members()}
    parts = {
        ending: image or jpeg(),
        "json": json if json is not None else found["json"],
        "txt": txt if txt is not None else found["txt"],
    }
    if image is not None:
        parts[ending] = image
    return [(f"{key}.{name}", data) for name, data in parts.items() if name != without]


def pair_with(**fields: object) -> Pair:
    """The sample with the ill, its .json extended."""
    whole = pair(BAD)
    return Pair(whole.key, whole.uid, whole.caption, whole.image, fields)
