"""Keep the figures of a demo run that the README names: `python -m benchmarks.record_demo runs/demo demo`.

Writes benchmarks/results/<name>.json: what the run's own summary says, how it was made, and on what.
"""

import json
import os
import platform
import sys
from pathlib import Path

from pipeline.run_record import read_record
from pipeline.storage import Storage

RESULTS = Path(__file__).parent / "results"

COMMANDS = {
    "demo": "python -m pipeline.run demo.yaml",
    "demo_retrained": "python -m pipeline.run demo.yaml 'evaluate.retrain={epochs: 8, learning_rate: 1e-3}'",
}
"""What made the run that each result is of."""


def main(run: str, name: str) -> None:
    record = read_record(run, Storage())
    summary = json.loads((Path(run) / "report" / "summary.json").read_text())
    kept = {
        "commands": ["gradsieve pool make data/demo", COMMANDS[name]],
        "truth": {key: value for key, value in summary["truth"].items() if isinstance(value, int | float)},
        "pool": {key: summary["pool"][key] for key in ("samples", "quarantined", "missing")},
        "select": {key: summary["select"][key] for key in ("kept", "dropped")},
        "reference": summary["reference"],
        "evaluation": [row for row in summary["evaluation"]["results"] if row["epoch"] is None],
        "seconds": summary["seconds"],
        "versions": record["versions"],
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
