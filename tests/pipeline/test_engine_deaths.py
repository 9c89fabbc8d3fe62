"""Workers that die: once, and each time."""

import os
from functools import partial
from pathlib import Path

import pytest

from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.errors import RunError
from pipeline.progress import Reporter

pytestmark = pytest.mark.ray


def _dies_once(item: int, *, folder: str) -> int:
    if item == 3:
        latch = Path(folder) / "died"
        if not latch.exists():
            latch.touch()
            os._exit(7)
    return item * 2


def _dies_always(item: str) -> str:
    if item == "shard-00005.tar":
        os._exit(7)
    return item


@pytest.fixture
def engine(ray_engine: Engine) -> Engine:
    """On the session's Ray, with few retries."""
    engine = Engine(ClusterConfig(task_retries=1), Reporter())
    assert ray_engine is not engine
    engine._started = True  # Ray runs already, and is not this engine's to end
    return engine


def test_task_whose_worker_died_is_tried_again(engine, tmp_path):
    assert engine.map(partial(_dies_once, folder=str(tmp_path)), list(range(6)), name="dies once") == [
        item * 2 for item in range(6)
    ]
    assert (tmp_path / "died").exists()


def test_partition_at_which_every_worker_dies_stops_the_run_and_is_named(engine):
    items = [f"shard-{number:05d}.tar" for number in range(8)]
    with pytest.raises(RunError, match=r"(?s)died each time.*shard-00005\.tar.*cluster\.task_retries"):
        engine.map(_dies_always, items, name="dies always")
