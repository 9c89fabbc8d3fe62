"""What is used adds up over tasks, ranks and attempts, and stops a run between two tasks."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.curation import Curation
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.heartbeat import heartbeat
from pipeline.limits import LimitsConfig
from pipeline.meter import Budget, LimitReachedError, Meter, Timed, Usage
from pipeline.progress import Reporter
from pipeline.rates import RatesConfig
from pipeline.run_record import RunRecord, read_record, used_before
from pipeline.storage import Storage
from tests.pipeline.shipped import TINY
from tests.stages.pool.pools import plain_pool


class Clock:
    """Goes on when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def engine(meter: Meter) -> Engine:
    return Engine(ClusterConfig(executor="in_process"), Reporter(), meter=meter)


@given(
    before=st.floats(0, 1e4),
    seconds=st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 64), st.floats(0, 8)), max_size=5),
)
def test_usage_is_what_earlier_attempts_used_and_what_tasks_kept_busy(
    before: float, seconds: list[tuple[float, float, float]]
) -> None:
    clock = Clock()
    meter = Meter(before=Usage(before, before, before, 3), clock=clock)
    for taken, cpus, gpus in seconds:
        meter.add(taken, cpus=cpus, gpus=gpus)
    clock.now = 7200
    usage = meter.usage()
    assert usage.hours == pytest.approx(before + 2)
    assert usage.cpu_hours == pytest.approx(before + sum(taken * cpus for taken, cpus, _ in seconds) / 3600)
    assert usage.gpu_hours == pytest.approx(before + sum(taken * gpus for taken, _, gpus in seconds) / 3600)
    assert usage.attempts == 4


def test_what_is_running_counts_while_it_runs_and_once_afterwards() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    with meter.running(cpus=2, gpus=8):
        clock.now = 1800
        assert meter.usage().gpu_hours == 4
        clock.now = 3600
    clock.now = 10_000
    assert (meter.usage().cpu_hours, meter.usage().gpu_hours) == (2, 8)


@pytest.mark.parametrize(
    ("limit", "reached"),
    [
        ({"hours": 1.0}, "hours"),
        ({"gpu_hours": 7.9}, "gpu_hours"),
        ({"usd": 21.0}, "usd"),
        ({"usd": 22.5}, None),
        ({}, None),
    ],
)
def test_limit_is_named_with_what_was_used(limit: dict[str, float], reached: str | None) -> None:
    """An hour of 8 GPUs at 2.5 and 2 cores at 0.5: 21 USD."""
    clock = Clock()
    rates = RatesConfig(usd_per_gpu_hour=2.5, usd_per_cpu_hour=0.5)
    meter = Meter(LimitsConfig(**limit).budget(rates), clock=clock)
    meter.check("the beginning")
    meter.add(3600, cpus=2, gpus=8)
    clock.now = 3600
    if reached is None:
        meter.check("here")
        return
    with pytest.raises(LimitReachedError, match="at here") as error:
        meter.check("here")
    assert f"limits.{reached}" in str(error.value)
    assert "same command" in str(error.value)


def _nothing(item: int) -> int:
    return item * 2


def test_task_is_timed_wherever_it_runs_and_gives_its_own_result() -> None:
    seconds, result = pickle.loads(pickle.dumps(Timed(_nothing)))(21)
    assert result == 42
    assert seconds >= 0


class PassHours:
    """A task that takes an hour, or says so."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.done = clock, 0

    def __call__(self, item: int) -> int:
        self.clock.now += 3600
        self.done += 1
        return item


def test_stage_stops_between_two_of_its_tasks() -> None:
    clock = Clock()
    task = PassHours(clock)
    with pytest.raises(LimitReachedError, match="numbers"):
        engine(Meter(Budget(hours=3), clock=clock)).map(task, range(10), name="numbers")
    assert task.done == 3


def test_stage_whose_last_task_reaches_the_limit_is_finished() -> None:
    clock = Clock()
    assert engine(Meter(Budget(hours=3), clock=clock)).map(PassHours(clock), range(3), name="x") == [0, 1, 2]


@pytest.mark.ray
def test_stage_on_ray_stops_between_tasks_and_what_they_kept_busy_is_metered(ray_engine: Engine) -> None:
    before, meter = ray_engine.meter, Meter(Budget(gpu_hours=1e9))
    try:
        ray_engine.meter = meter
        assert ray_engine.map(_nothing, range(4), name="numbers") == [0, 2, 4, 6]
        assert meter.usage().cpu_hours > 0
        ray_engine.meter = Meter(Budget(hours=1), Usage(hours=2))
        with pytest.raises(LimitReachedError):
            ray_engine.map(_nothing, range(4), name="numbers")
        ray_engine.meter = meter
        assert ray_engine.map(_nothing, range(3), name="numbers") == [0, 2, 4], "the engine is as good as before"
    finally:
        ray_engine.meter = before


def test_record_carries_what_was_used_from_attempt_to_attempt(tmp_path: Path) -> None:
    output = str(tmp_path)
    assert used_before(output, Storage(), Reporter()) == Usage()
    for attempt in (1, 2, 3):
        clock = Clock()
        meter = Meter(before=used_before(output, Storage(), Reporter()), clock=clock)
        record = RunRecord(output, Storage(), {}, ["x"], meter)
        record.stage("x", "running")
        meter.add(3600, cpus=4, gpus=1)
        clock.now = 1800
        record.note_usage()  # and the driver is killed
        assert used_before(output, Storage(), Reporter()) == Usage(attempt / 2, attempt, 4.0 * attempt, attempt)
    assert read_record(output, Storage())["state"] == "running"


def test_damaged_record_is_told_and_counts_for_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunRecord(str(tmp_path), Storage(), {}, ["x"]).note_usage()
    path = tmp_path / "run.json"
    path.write_bytes(path.read_bytes().replace(b'"attempts": 1', b'"attempts": 9'))
    assert used_before(str(tmp_path), Storage(), Reporter()) == Usage()
    assert "not known" in capsys.readouterr().err


def test_heart_beats_until_the_context_is_left() -> None:
    import threading

    beats: list[int] = []
    third = threading.Event()

    def beat() -> None:
        beats.append(1)
        if len(beats) == 3:
            third.set()

    with heartbeat(beat, seconds=0.001):
        assert third.wait(60)
    after = len(beats)
    threading.Event().wait(0.05)
    assert len(beats) == after


def test_run_is_limited_over_all_attempts_and_goes_on_with_a_higher_limit(tmp_path: Path) -> None:
    plain_pool(tmp_path / "shards")

    def run(*overrides: str) -> None:
        places = [f"output={tmp_path / 'run'}", f"pool.path={tmp_path / 'shards'}", "pool.metadata=null"]
        inside = [
            "cluster.executor=in_process",
            "selectors={}",
            "binarize.voters={mimic: {}}",
            "aggregate.method=mean_score",
        ]
        Curation.from_text(TINY, [*places, *inside, *overrides], "tiny.yaml", Reporter()).run("pool")

    for attempt in (1, 2):
        with pytest.raises(LimitReachedError, match="pool"):
            run("limits.hours=1e-9")
        record = read_record(str(tmp_path / "run"), Storage())
        assert (record["state"], record["used"]["attempts"]) == ("stopped", attempt)
        assert record["stages"]["pool"]["state"] == "waiting"
    run("limits.hours=100")
    record = read_record(str(tmp_path / "run"), Storage())
    assert (record["state"], record["used"]["attempts"]) == ("done", 3)
    run("limits.hours=1e-9")  # nothing is left to do
