"""Run benchmarks and print their ratios beside the targets: `python -m benchmarks [--form short|full] [CASE ...]`.

Each case is a module of `benchmarks.cases` whose `measure(form)` gives lines, one after the other. They are kept in
`benchmarks/results/<case>.json` (`<case>.short.json` for the short form), as far as they have come. `--table` prints
what is kept, of each case the full form where there is one, and runs nothing.
"""

import argparse
import importlib
import pkgutil
import sys
import time

from benchmarks import cases, record
from benchmarks.ratio_table import kept, table, table_of_kept


def names() -> list[str]:
    """All cases, in the order of their names."""
    return sorted(module.name for module in pkgutil.iter_modules(cases.__path__))


def main() -> int:
    """Exit code 1 if a target was missed or a case failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(names())}; all by default")
    parser.add_argument("--form", choices=("short", "full"), default="short")
    parser.add_argument("--table", action="store_true", help="print what is kept and run nothing")
    wishes = parser.parse_args()
    unknown = set(wishes.cases) - set(names())
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    failed = False
    if wishes.table:
        print(table_of_kept())
        return int(any(line["missed"] for _, _, line in kept()))
    for case in wishes.cases or names():
        begun = time.monotonic()
        print(f"{case} ...", file=sys.stderr, flush=True)
        lines: list[record.Line] = []
        try:
            for line in importlib.import_module(f"benchmarks.cases.{case}").measure(wishes.form):
                lines.append(line)
                path = record.save(case, wishes.form, lines)
                seconds = time.monotonic() - begun
                print(f"{line.what}: {line.ratio.median:.3g}; {seconds:.0f} s", file=sys.stderr, flush=True)
        except (AssertionError, RuntimeError) as error:
            failed = True
            print(f"{case} FAILED: {error}", file=sys.stderr, flush=True)
            continue
        print(f"{case}: kept in {path.name}", file=sys.stderr, flush=True)
    chosen = [(case, line) for case, line in record.load(wishes.form) if not wishes.cases or case in wishes.cases]
    print(table(chosen))
    return int(failed or any(line["missed"] for _, line in chosen))


if __name__ == "__main__":
    sys.exit(main())
