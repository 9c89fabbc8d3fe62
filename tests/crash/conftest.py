"""A tiny pool, and the undisturbed run that every disturbed one is compared with."""

from pathlib import Path

import pytest

from pipeline.progress import Reporter
from stages.pool.demo import make_pool
from tests.crash.scenes import result, run


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a demo pool of 512 samples in `pool/`."""
    folder = tmp_path_factory.mktemp("crash")
    make_pool(str(folder / "pool"), num_samples=512, seed=0, reporter=Reporter())
    return folder


@pytest.fixture(scope="session")
def undisturbed(workplace: Path) -> Path:
    """The output of a run that nobody disturbed."""
    output = workplace / "runs" / "undisturbed"
    ended = run(workplace, output)
    assert ended.code == 0, ended.shown
    return output


@pytest.fixture(scope="session")
def wanted(undisturbed: Path) -> dict[str, object]:
    """What every run must end in."""
    return result(undisturbed)
