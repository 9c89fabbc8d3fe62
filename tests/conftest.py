"""One embedded Ray for the whole session, and an environment without surprises."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.servers.rgw import NO_RGW, PACKAGES

# A gate repeats itself; a person at the keyboard gets new examples each time.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
os.environ.setdefault("RAY_worker_niceness", "0")  # else Ray's workers give way to whatever else runs on the machine


@pytest.fixture(scope="session")
def ray_engine() -> "Iterator[object]":
    """An engine on an embedded Ray that all tests of the session share."""
    from pipeline.engine import Engine
    from pipeline.engine_config import ClusterConfig
    from pipeline.progress import Reporter

    engine = Engine(ClusterConfig(num_cpus=6), Reporter())
    engine.ensure_ray()
    yield engine
    engine.shutdown()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud that what is promised for object stores went untested; a line of `s` says it to nobody."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NO_RGW in str(report.longrepr)]
    if skipped:
        terminalreporter.section(f"{len(skipped)} TESTS ON A REAL S3 SERVER WERE SKIPPED", sep="!", red=True, bold=True)
        terminalreporter.write_line("Nothing that is promised for object stores was tested on a real one.")
        terminalreporter.write_line(f"Debian and Ubuntu: apt-get install {PACKAGES}", bold=True)
