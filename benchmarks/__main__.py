"""Run benchmarks and print their ratios beside the targets: `python -m benchmarks [--form short|full] [CASE ...]`.

Each case is a module of `benchmarks.cases` whose `measure(form)` gives lines, one after the other. They are kept in
`benchmarks/results/<case>.json` (`<case>.short.json` for the short form) once the case is complete; until then, and
where it breaks off, what has come is in a `.partial` beside it. `--table` prints what is kept, of each case the full
form where there is one, and runs nothing.

A target is missed where even the better end of the interval misses it. The short form has few pairs and small sizes: it
shows that everything runs and agrees, the full form what holds.

Exit code 0: all targets were reached. 1: one was missed, or a case failed. 2: nothing could be measured or shown.
"""

import argparse
import importlib
import os
import pkgutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import cases, record
from benchmarks.ratio_table import kept, table, table_of_kept


def names() -> list[str]:
    """All cases, in the order of their names."""
    return sorted(module.name for module in pkgutil.iter_modules(cases.__path__))


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(names())}; all by default")
    parser.add_argument("--form", choices=record.FORMS, default="short", help="of what is run; short by default")
    parser.add_argument("--table", action="store_true", help="print what is kept and run nothing")
    wishes = parser.parse_args()
    unknown = set(wishes.cases) - set(names())
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    try:
        if wishes.table:
            print(table_of_kept(wishes.cases), flush=True)
            return int(any(line["missed"] for _, _, line in kept(wishes.cases)))
        record.RESULTS.mkdir(exist_ok=True)
        if not os.access(record.RESULTS, os.W_OK):
            raise PermissionError(f"{record.RESULTS} is not writable: results could not be kept")
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return _measure(wishes.cases or names(), wishes.form)


def _measure(chosen: Sequence[str], form: str) -> int:
    shown: list[dict[str, Any]] = []
    failed: list[str] = []
    for case in chosen:
        begun = time.monotonic()
        print(f"{case} ...", file=sys.stderr, flush=True)
        lines: list[record.Line] = []
        try:
            for line in importlib.import_module(f"benchmarks.cases.{case}").measure(form):
                lines.append(line)
                shown.append(record.as_kept(line))
                record.save(case, form, lines, complete=False)
                seconds = time.monotonic() - begun
                print(f"{line.what}: {line.ratio.median:.3g}; {seconds:.0f} s", file=sys.stderr, flush=True)
            print(f"{case}: kept in {record.save(case, form, lines).name}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print(f"{case}: interrupted; what was kept of it before stays", file=sys.stderr)
            return 130
        except Exception as error:  # whatever ends one case, the others are measured
            failed.append(case)
            print(f"{case} FAILED: {error}", file=sys.stderr, flush=True)
    print(table(shown, failed))
    return int(bool(failed) or any(line["missed"] for line in shown))


if __name__ == "__main__":
    sys.exit(main())
