"""Die at a chosen write, to prove that a run survives it; does nothing unless the environment asks for it.

`GRADSIEVE_CRASH_AT=<moment> <glob>[ <n>]` ends the process, as SIGKILL would (no handler, no `finally`, no flush),
at the n-th write (default: the first) of this process whose URI matches the glob. Moments are

- `before`: nothing of the object exists,
- `staged`: it lies whole on local disk under a hidden name, not yet under its own (local stores only),
- `after`:  it is published, and the process that put it does not know it yet.

With `GRADSIEVE_CRASH_LATCH=<file>` only the process that creates that file dies: one of many workers, once.
"""

import fnmatch
import os
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

CRASH_AT = "GRADSIEVE_CRASH_AT"
CRASH_LATCH = "GRADSIEVE_CRASH_LATCH"
EXIT_CODE = 9

Moment = Literal["before", "staged", "after"]


class _Wish(NamedTuple):
    moment: str
    glob: str
    nth: int


_passed = 0


def reach(moment: Moment, uri: str) -> None:
    """Tell that a write of `uri` has come to a moment; does not return if the environment says so."""
    global _passed
    wish = _wish()
    if wish is None or moment != wish.moment or not fnmatch.fnmatchcase(uri, wish.glob):
        return
    _passed += 1
    if _passed >= wish.nth and _latched():
        os._exit(EXIT_CODE)


@lru_cache(maxsize=1)
def _wish() -> _Wish | None:
    text = os.environ.get(CRASH_AT)
    if not text:
        return None
    moment, glob, *nth = text.split()
    return _Wish(moment, glob, int(nth[0]) if nth else 1)


def _latched() -> bool:
    latch = os.environ.get(CRASH_LATCH)
    if not latch:
        return True
    try:
        Path(latch).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
