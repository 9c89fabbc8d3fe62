"""One made-up run for all tests of the report."""

import pytest

from tests.stages.report.synthetic import Run, make_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Run:
    return make_run(tmp_path_factory.mktemp("finished"))
