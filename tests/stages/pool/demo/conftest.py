import pytest

from pipeline.progress import Reporter
from stages.pool.demo import make_pool

SAMPLES = 256


def make_small(directory, **changes):
    options = {"num_samples": SAMPLES, "seed": 3, "scorer_samples": 128, "evaluation_images": 20, **changes}
    return make_pool(str(directory), reporter=Reporter(), **options)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("demo") / "pool")
