"""`python -m tests.pipeline.big_results MEGABYTES`: a map whose tasks return so much each; exit code as a run's."""

import sys

from pipeline.engine import ClusterConfig, Engine
from pipeline.errors import GradsieveError
from pipeline.progress import Reporter

STORE = 80 << 20
"""Bytes of shared memory, about the least that Ray takes."""


def _result(megabytes: int) -> bytes:
    return bytes(megabytes << 20)


def main() -> int:
    """Map, and tell."""
    megabytes = int(sys.argv[1])
    config = ClusterConfig(num_cpus=2, object_store_memory=STORE, stalled_after_seconds=60.0)
    engine = Engine(config, Reporter())
    try:
        results = engine.map(_result, [megabytes, megabytes], name="big results")
    except GradsieveError as error:
        print(f"error: {error}")
        return error.exit_code
    finally:
        engine.shutdown()
    print(f"bytes: {sum(map(len, results))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
