"""What a benchmark leaves: lines with ratios beside targets, and where, how and on how many rows they were measured."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from benchmarks.measure import Ratio

RESULTS = Path(__file__).parent / "results"
FORMS = ("short", "full")
_PACKAGES = (
    "gradsieve",
    "ray",
    "torch",
    "torchvision",
    "open_clip_torch",
    "polars",
    "pyarrow",
    "numpy",
    "snorkel",
    "webdataset",
)


@dataclass(frozen=True)
class Target:
    """What a ratio must reach."""

    limit: float
    better: Literal["lower", "higher"]

    def missed_by(self, ratio: Ratio) -> bool:
        """Whether even the interval's better end misses it."""
        return ratio.low > self.limit if self.better == "lower" else ratio.high < self.limit

    def __str__(self) -> str:
        return f"{'at most' if self.better == 'lower' else 'at least'} {self.limit:g}"


@dataclass(frozen=True)
class Line:
    """One comparison."""

    what: str
    against: str
    ratio: Ratio
    target: Target | None
    pairs: int
    counts: Mapping[str, int]
    """Exact rows, samples or bytes of both contenders."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Median seconds by contender."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else was measured: peak bytes, configured bounds, sizes, what limits a missed target."""

    @property
    def missed(self) -> bool:
        """Whether the target was missed."""
        return self.target is not None and self.target.missed_by(self.ratio)


_FIELDS = {each.name for each in fields(Line)} | {"missed"}


def save(case: str, form: str, lines: list[Line], *, complete: bool = True) -> Path:
    """Write `results/<case>[.short].json`, as a whole; a case that is not complete lies beside it as `.partial`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / (f"{case}.json" if form == "full" else f"{case}.{form}.json")
    body = {
        "case": case,
        "form": form,
        "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": source(),
        "machine": machine(),
        "versions": versions(),
        "lines": [as_kept(line) for line in lines],
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(body, indent=1, sort_keys=True, default=str) + "\n")
    return partial.replace(path) if complete else partial


def as_kept(line: Line) -> dict[str, Any]:
    """The line as it lies in a file."""
    return {**asdict(line), "missed": line.missed}


def load(form: str) -> list[tuple[str, dict[str, Any]]]:
    """(case, line) of all results of a form, as they lie on disk.

    Raises:
        ValueError: a file is damaged; it is named.
    """
    found = []
    for path in sorted(RESULTS.glob("*.json")):
        try:
            body = json.loads(path.read_text())
            kept_form = body.get("form")
            lines = body["lines"] if kept_form is not None else []
            if kept_form not in (None, *FORMS) or any(_FIELDS - line.keys() for line in lines):
                raise ValueError(f"form {kept_form!r}, or lines without what a line has")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is not a result ({error}): remove it and measure again") from error
        if kept_form == form:
            found += [(body["case"], line) for line in lines]
    return found


def source() -> str | None:
    """The commit that was measured, with `-dirty` where files differ from it; None outside of a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


def machine() -> dict[str, Any]:
    """Cores, memory, processor, kernel."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "processor": model,
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that matter."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
