"""The plan: what it costs, what it shows, what it refuses, and the four scales of DataComp."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.artifact import Counts, Manifest
from pipeline.curation import Curation
from pipeline.errors import UserError
from pipeline.graph import Adopted, Graph, Node, Place
from pipeline.limits import LimitsConfig
from pipeline.plan import (
    PlannedNode,
    check_limits,
    human_bytes,
    human_count,
    make_plan,
    note_entries,
    plan_table,
    plan_totals,
)
from pipeline.prices import prices
from pipeline.progress import Reporter
from pipeline.rates import RatesConfig
from pipeline.reuse import Entries
from pipeline.stage import Size, StagePlan
from pipeline.storage import Storage
from pipeline.traffic import Traffic
from tests.pipeline.shipped import SHIPPED
from tests.pipeline.test_runner import EVEN, NUMBERS, _run
from tests.pipeline.toy_stages import NumbersConfig, SquaresConfig

FREE = dict.fromkeys(prices(), 0.0) | {"seconds_per_request": 0.0, "seconds_per_task": 0.0}
SCALES = {"small": 12_800_000, "medium": 128_000_000, "large": 1_280_000_000, "xlarge": 12_800_000_000}


def _scale(name: str, folder: Path) -> list[PlannedNode]:
    curation = Curation.from_text(SHIPPED[f"{name}.yaml"], [f"output={folder}"], name, Reporter())
    return make_plan(curation.graph(), {}, curation.config.plan.rates)


def test_plan_costs_what_is_not_done_and_limits_refuse_it(tmp_path: Path) -> None:
    rates = RatesConfig(**{**FREE, "usd_per_gpu_hour": 3.0, "usd_per_cpu_hour": 0.1})
    graph = Graph([NUMBERS, EVEN], Place(str(tmp_path / "out"), str(tmp_path / "out/store"), Storage()), 0)
    lines = make_plan(graph, {}, rates)
    assert [(line.name, line.done, line.plan.output.rows) for line in lines] == [
        ("numbers", False, 10),
        ("even", False, 5),
    ]
    assert lines[0].usd(rates) == pytest.approx(2 * 3.0 + 10 * 0.1)
    check_limits(lines, LimitsConfig(gpu_hours=2.0, usd=7.0), rates)
    with pytest.raises(UserError, match="beyond its limits") as caught:
        check_limits(lines, LimitsConfig(usd=6.99), rates)
    assert "limits.usd" in str(caught.value)
    with pytest.raises(UserError, match=r"limits\.gpu_hours"):
        check_limits(lines, LimitsConfig(gpu_hours=1.0), rates)
    finished = _run(tmp_path)
    after = make_plan(graph, finished, rates)
    assert sum(line.usd(rates) for line in after) == 0
    assert plan_table(after, rates).row_count == 2
    assert plan_totals(after, rates).startswith("to run: 0 of 2 stages; reads 0 B, writes 0 B, 0 requests")
    assert "2.0 GPU hours, 10.0 CPU hours, 7.00 USD" in plan_totals(lines, rates)
    check_limits(after, LimitsConfig(usd=0.01), rates)


def test_cost_is_hours_requests_and_what_tasks_wait_for() -> None:
    plan = StagePlan(Size(0, 0), partitions=3600, gpu_hours=1, cpu_hours=2, traffic=Traffic(5, 7_000_000, 200_000))
    line = PlannedNode("x", False, plan)
    only = {"usd_per_gpu_hour": 2.0}, {"usd_per_million_gets": 0.5}, {"usd_per_million_puts": 5.0}
    assert [line.usd(RatesConfig(**{**FREE, **price})) for price in only] == [2.0, 3.5, 1.0]
    waiting = RatesConfig(**{**FREE, "usd_per_cpu_hour": 1.0, "seconds_per_request": 0.1, "seconds_per_task": 2.0})
    assert line.cpu_hours(waiting) == pytest.approx(2 + 7_200_000 * 0.1 / 3600 + 2.0)
    assert line.usd(waiting) == pytest.approx(line.cpu_hours(waiting))
    assert PlannedNode("x", True, plan).usd(waiting) == 0


def test_prices_are_the_table_and_each_can_be_overridden() -> None:
    table = prices()
    rates = RatesConfig().model_dump()
    assert {name for name in rates if name.startswith("usd_")} == set(table)
    assert {name: rates[name] for name in table} == table
    for name in table:
        assert RatesConfig(**{name: 123.0}).model_dump()[name] == 123.0


@pytest.mark.parametrize("name", SCALES)
def test_scale_of_datacomp_is_planned_without_data(name: str, tmp_path: Path) -> None:
    lines = {line.name: line for line in _scale(name, tmp_path)}
    rows = SCALES[name]
    for stage in ("pool", "scores/clip_score", "votes", "decisions"):
        assert lines[stage].plan.output.rows == rows
    training = lines["training/mimic"]
    published = {"small": 4, "medium": 40, "large": 960, "xlarge": 40_000}  # GPU hours, as DataComp reports them
    assert training.plan.gpu_hours == pytest.approx(published[name], rel=0.01)
    for line in lines.values():
        traffic, plan = line.plan.traffic, line.plan
        if line.name not in ("reference",):
            assert traffic.read_bytes > 0, line.name
            assert traffic.gets > 0, line.name
            assert traffic.puts > 0, line.name
        assert plan.peak_task_bytes < 2e9, line.name


def test_cost_of_the_scales_grows_with_the_pool_except_for_the_models(tmp_path: Path) -> None:
    """Ten times the pool is about ten times the bytes; bounds of a task stay."""
    plans = {name: {line.name: line.plan for line in _scale(name, tmp_path)} for name in SCALES}
    for smaller, larger in (("small", "medium"), ("medium", "large"), ("large", "xlarge")):
        for stage, plan in plans[larger].items():
            before = plans[smaller][stage]
            if stage in ("reference", "report", "training/mimic"):
                continue
            assert 5 < plan.output.bytes / before.output.bytes < 15, stage
            assert plan.peak_task_bytes < 2.5 * before.peak_task_bytes or plan.peak_task_bytes < 2e9, stage


def test_plan_of_a_scale_is_shown_whole_in_a_pipe(tmp_path: Path) -> None:
    curation = Curation.from_text(SHIPPED["xlarge.yaml"], [f"output={tmp_path}"], "xlarge", Reporter())
    table, totals = curation.plan()
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    shown = capture.get()
    for column in ("reads", "writes", "requests", "tasks", "driver", "GPU h", "CPU h", "USD"):
        assert column in shown
    assert "12,800,000,000" in shown
    assert "USD a month" in totals


def test_bytes_and_counts_are_shown_with_a_decimal_unit() -> None:
    assert [human_bytes(n) for n in (0, 999, 1000, 4.5e12, 2e16)] == ["0 B", "999 B", "1 kB", "4.5 TB", "20 PB"]
    assert [human_count(n) for n in (0, 999, 1000, 4.5e6, 2e9)] == ["0", "999", "1 k", "4.5 M", "2 G"]


def test_size_of_a_finished_artifact_tells_its_buckets(tmp_path: Path) -> None:
    node = Node("numbers", "numbers", "tests.pipeline.toy_stages:Numbers", NUMBERS.config)
    lines = make_plan(Graph([node], Place(str(tmp_path), str(tmp_path), Storage()), 0), {}, RatesConfig())
    assert lines[0].plan.output.buckets is None


def _squares(tmp_path: Path, count: int) -> Graph:
    nodes = (
        Node("numbers", "numbers", "tests.pipeline.toy_stages:Numbers", NumbersConfig(count=count)),
        Node("squares", "squares", "tests.pipeline.toy_stages:Squares", SquaresConfig(), {"numbers": "numbers"}),
    )
    return Graph(nodes, Place(str(tmp_path / "out"), str(tmp_path / "store"), Storage()), seed=0)


def test_results_of_earlier_tasks_are_told_beside_stages_that_will_run(tmp_path: Path) -> None:
    def notes(graph: Graph) -> list[str]:
        lines = note_entries(make_plan(graph, graph.done(), RatesConfig()), graph)
        return [line.plan.note for line in lines]

    assert notes(_squares(tmp_path, 3)) == ["", ""]
    entries = Entries.of(str(tmp_path / "store"), "squares", Storage())
    for number in range(2):
        entries.commit(entries.key(number), [], {})
    assert notes(_squares(tmp_path, 3)) == ["", "at most: 2 results of earlier tasks are reused where they fit"]


def test_artifact_that_is_taken_costs_nothing_and_names_its_run(tmp_path: Path) -> None:
    graph = _squares(tmp_path, 3)
    root = tmp_path / "store/numbers" / ("f" * 16)
    manifest = Manifest("numbers", "f" * 64, {}, (), {}, Counts(7, 7))
    Storage().put(f"{root}/manifest.json", manifest.to_json())
    taken = replace(graph.nodes[0], adopted=Adopted("/runs/earlier", "numbers", "f" * 64))
    grown = Graph([taken, graph.nodes[1]], graph.place, seed=0)
    numbers, squares = make_plan(grown, grown.done(), RatesConfig())
    assert (numbers.done, numbers.plan.note, numbers.usd(RatesConfig())) == (True, "taken from /runs/earlier", 0.0)
    assert squares.plan.output.rows == 7
