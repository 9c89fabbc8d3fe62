"""The loop: what it warns of, when it checks the reference, where it stops, and that any batch is a place to go on."""

import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipeline.artifact import Artifact
from pipeline.errors import RunError, UserError
from stages.models.build import build_model
from stages.train import check, loop
from stages.train.checkpoint import CheckpointStore
from stages.train.config import TrainConfig
from stages.train.loop import initial_model, make_repeatable
from stages.train.notice import Listener, Notice
from stages.train.ranks import Ranks
from stages.train.spec import Standing, TrainSpec
from stages.train.stage import TrainStage, loader_spec
from tests.artifacts import commit, context, listed
from tests.stages.train.conftest import Lineage
from tests.stages.train.test_stage import recipe


def run(
    root: Path, lineage: Lineage, config: TrainConfig, *, on_uninformative: Any = "warn", with_reference: bool = True
) -> tuple[Artifact, str]:
    """(training, what the user was told)."""
    inputs = {"pool": lineage.pool[0], "init": lineage.base}
    inputs |= {"reference": lineage.reference} if with_reference else {}
    made = context(root, inputs=inputs, external={"shards": listed(lineage.pool[1])})
    told = io.StringIO()
    made.reporter.console = Console(file=told, width=400)
    stage = TrainStage(config, pool_path=lineage.pool[1], on_uninformative=on_uninformative)
    return commit(root, "training/mimic", stage.run(made)), told.getvalue()


CPU = torch.device("cpu")


def spec_of(root: Path, lineage: Lineage, config: TrainConfig) -> TrainSpec:
    """What the stage would hand to a rank, see `run`."""
    made = context(root, inputs={"pool": lineage.pool[0], "init": lineage.base, "reference": lineage.reference})
    loader = loader_spec(config, lineage.pool[0], lineage.pool[1], made.seed)
    return TrainSpec(config, made.seed, loader, made.output, "training/mimic", lineage.base, lineage.reference, "warn")


class Leaving:
    """A progress that tells to end after a step; `done` collects the steps that were done."""

    def __init__(self, step: int, done: list[int]) -> None:
        self._step, self._done = step, done

    def stand(self, standing: Standing) -> None:
        self._done.append(standing.samples // 12)

    def warn(self, text: str) -> None: ...

    def committed(self, step: int, loss: float) -> None: ...

    def notice(self) -> Notice:
        return Notice.RUN_ENDS if self._done[-1] == self._step else Notice.NONE


@pytest.fixture(autouse=True)
def every_step_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "Listener", partial(Listener, seconds=0))


class Stopped(Exception):
    """The process ended here."""


def stop_before(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the training die before a step, once."""
    whole = loop._Training._one_step
    died: list[int] = []

    def dying(self: Any, number: int, local: Any) -> Any:
        if number == step and not died:
            died.append(number)
            raise Stopped
        return whole(self, number, local)

    monkeypatch.setattr(loop._Training, "_one_step", dying)


@pytest.fixture(scope="module")
def straight(lineage: Lineage, tmp_path_factory: pytest.TempPathFactory) -> dict[int | None, Artifact]:
    """Undisturbed runs, by their checkpoints."""
    return {
        every: run(tmp_path_factory.mktemp("straight"), lineage, recipe(**RESUMED, checkpoint_every=every))[0]
        for every in (1, 2, None)
    }


RESUMED: dict[str, Any] = {"method": "mimic", "epochs": 2, "temperature": 0.3}


@pytest.mark.parametrize("every", [1, 2, None])
@pytest.mark.parametrize("step", [0, 1, 2, 3, 4, 5])
def test_training_that_died_before_any_batch_ends_in_the_same_bytes(
    lineage: Lineage,
    straight: dict[int | None, Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    every: int | None,
) -> None:
    stop_before(monkeypatch, step)
    config = recipe(**RESUMED, checkpoint_every=every)
    with pytest.raises(Stopped):
        run(tmp_path, lineage, config)
    done = CheckpointStore(context(tmp_path).output).latest()
    due = [n for n in range(1, step + 1) if n % 3 == 0 or (every is not None and n % every == 0)]
    assert (done.step if done else 0) == (due[-1] if due else 0)
    again, told = run(tmp_path, lineage, config)
    assert again.manifest.content == straight[every].manifest.content
    assert ("going on from step" in told) == bool(due)


@settings(max_examples=8, deadline=None)
@given(every=st.sampled_from([1, 2, None]), leave_after=st.sets(st.integers(1, 6)))
def test_training_that_leaves_after_any_steps_ends_in_the_same_bytes(
    lineage: Lineage, straight: dict[int | None, Artifact], every: int | None, leave_after: set[int]
) -> None:
    """Model, history, checks of the reference and ledger: all of the content, and no step is done twice."""
    config = recipe(**RESUMED, checkpoint_every=every)
    with TemporaryDirectory() as folder:
        spec = spec_of(Path(folder), lineage, config)
        done: list[int] = []
        for step in sorted(leave_after - {6}):
            assert loop.train(spec, Ranks(), CPU, Leaving(step, done)) is Notice.RUN_ENDS
            last = CheckpointStore(spec.output).latest()
            assert last is not None
            assert last.step == step
        made, told = run(Path(folder), lineage, config)
        assert made.manifest.content == straight[every].manifest.content
        assert ("going on from step" in told) == bool(leave_after - {6})
        assert done == list(range(1, max(leave_after - {6}, default=0) + 1))


def test_training_without_scores_that_leaves_ends_in_the_same_bytes(lineage: Lineage, tmp_path: Path) -> None:
    config = recipe(epochs=2)
    spec = replace(spec_of(tmp_path / "left", lineage, config), reference=None)
    for step in (1, 4, 5):
        assert loop.train(spec, Ranks(), CPU, Leaving(step, [])) is Notice.RUN_ENDS
    left, whole = (run(tmp_path / name, lineage, config, with_reference=False)[0] for name in ("left", "whole"))
    assert left.manifest.content == whole.manifest.content


def test_training_that_is_told_to_end_at_its_last_step_is_finished(lineage: Lineage, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, lineage, recipe(**RESUMED))
    assert loop.train(spec, Ranks(), CPU, Leaving(6, [])) is Notice.NONE


def test_checkpoint_before_leaving_keeps_broken_weights_out(
    lineage: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path, lineage, recipe(**RESUMED))
    bound = loop.bound_logit_scale

    def broken(clip: torch.nn.Module) -> None:
        bound(clip)
        next(clip.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(loop, "bound_logit_scale", broken)
    with pytest.raises(RunError, match="weights are not finite"):
        loop.train(spec, Ranks(), CPU, Leaving(1, []))
    assert CheckpointStore(spec.output).latest() is None


def test_checkpoints_change_what_is_checked_but_not_what_is_learned(straight: dict[int | None, Artifact]) -> None:
    models = {made.read_bytes("model/open_clip_model.safetensors") for made in straight.values()}
    assert len(models) == 1
    steps = {every: [row["step"] for row in made.read_json("checks.json")] for every, made in straight.items()}
    assert steps == {1: [1, 2, 3, 4, 5, 6], 2: [2, 3, 4, 6], None: [3, 6]}
    by_step = {row["step"]: row for row in straight[1].read_json("checks.json")}
    assert [by_step[row["step"]] for row in straight[None].read_json("checks.json")] == straight[None].read_json(
        "checks.json"
    )
    assert [row["epoch"] for row in straight[1].read_json("checks.json")] == [0, 0, 0, 1, 1, 1]


def test_finished_training_is_not_started_again(
    lineage: Lineage, straight: dict[int | None, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = run(tmp_path, lineage, recipe(**RESUMED))

    def never(*_: Any) -> None:
        raise AssertionError("a rank was started")

    monkeypatch.setattr(loop, "train", never)
    again, told = run(tmp_path, lineage, recipe(**RESUMED))
    assert again.manifest.content == first.manifest.content == straight[None].manifest.content
    assert "going on from step 6" in told


def test_reference_that_becomes_uninformative_stops_at_the_checkpoint(
    lineage: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "INFORMATIVE", 2.0)
    with pytest.raises(RunError, match="reference is") as stopped:
        run(tmp_path, lineage, recipe(method="mimic", epochs=2), on_uninformative="stop")
    assert "after step 3" in str(stopped.value)
    assert "on 24 samples" in str(stopped.value)
    assert "lineage" in str(stopped.value)
    assert CheckpointStore(context(tmp_path).output).latest() is None, "such a state is nothing to go on from"


def test_inverted_reference_says_what_that_means(
    lineage: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "INFORMATIVE", 2.0)
    monkeypatch.setattr(check, "INVERTED", 1.5)
    with pytest.raises(RunError, match="reference is inverted: samples that the reference does better on score lower"):
        run(tmp_path, lineage, recipe(method="mimic"), on_uninformative="stop")


@pytest.mark.parametrize(("method", "on"), [("mimic", "warn"), ("uniform", "stop"), ("uniform", "warn")])
def test_uninformative_reference_warns_where_scores_do_no_harm_or_the_user_said_so(
    lineage: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, on: str
) -> None:
    monkeypatch.setattr(check, "INFORMATIVE", 2.0)
    made, told = run(tmp_path, lineage, recipe(method=method), on_uninformative=on)
    assert made.summary["steps"] == 3
    assert "warning: the reference is" in told
    assert "after step 3" in told


def test_informative_reference_is_not_spoken_of(
    lineage: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "INFORMATIVE", -1.0)
    _, told = run(tmp_path, lineage, recipe(method="mimic"), on_uninformative="stop")
    assert "the reference is" not in told


@pytest.mark.parametrize(("temperature", "warned"), [(1e-6, True), (1e3, False)])
def test_small_effective_batch_is_warned_of_once(
    lineage: Lineage, tmp_path: Path, temperature: float, warned: bool
) -> None:
    made, told = run(tmp_path, lineage, recipe(method="mimic", epochs=2, temperature=temperature))
    assert told.count("of the batch in effect") == int(warned)
    shares = made.read_table("history.parquet")["effective_batch"].to_pylist()
    assert (max(shares) < 0.5) == warned
    if warned:
        assert f"weights leave {sum(shares[:3]) / 3:.0%} of the batch" in told


def test_warmup_that_outlasts_the_training_is_warned_of(lineage: Lineage, tmp_path: Path) -> None:
    _, told = run(tmp_path / "a", lineage, recipe(warmup=3), with_reference=False)
    assert "`warmup` (3) is not shorter than the training (3 steps)" in told
    _, told = run(tmp_path / "b", lineage, recipe(warmup=2), with_reference=False)
    assert "warmup" not in told
    _, told = run(tmp_path / "c", lineage, recipe(method="score", warmup=500))
    assert "warmup" not in told, "nothing is learned there"


def test_parameter_before_the_last_attention_is_warned_of_and_scored(lineage: Lineage, tmp_path: Path) -> None:
    name = "visual.transformer.resblocks.0.mlp.c_proj.weight"
    made, told = run(tmp_path, lineage, recipe(method="mimic", mimic={"parameters": [name]}))
    assert f"{name} lie(s) before the last attention" in told
    assert made.summary["mimicked"] == [name]


def test_diverged_training_keeps_its_last_checkpoint(lineage: Lineage, tmp_path: Path) -> None:
    """The error names step and losses before it; what was fine before stays to go on from."""
    config = recipe(learning_rate=1e30, warmup=0, epochs=3, checkpoint_every=1)
    with pytest.raises(RunError, match=r"(?s)not finite.*train\.learning_rate") as stopped:
        run(tmp_path, lineage, config, with_reference=False)
    last = CheckpointStore(context(tmp_path).output).latest()
    assert last is not None
    assert f"step {last.step}" in str(stopped.value)


def test_initial_model_of_another_architecture_is_refused(lineage: Lineage) -> None:
    wide = recipe().model.model_copy(update={"embed_dim": 12})
    with pytest.raises(UserError, match="do not fit"):
        initial_model(lineage.base, wide, 0)


def test_initial_model_is_the_given_one_or_that_of_the_seed(lineage: Lineage) -> None:
    model = recipe().model
    given = initial_model(lineage.base, model, 5).state_dict()
    random = initial_model(None, model, 5).state_dict()
    own = build_model(model, 5).state_dict()
    assert all(torch.equal(random[name], own[name]) for name in own)
    assert not torch.equal(given["visual.proj"], own["visual.proj"])


def test_threads_are_those_of_the_recipe_in_training_and_as_before_after_it(
    lineage: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    whole = loop._Training._one_step

    def watching(self: Any, number: int, local: Any) -> Any:
        seen.append(torch.get_num_threads())
        return whole(self, number, local)

    monkeypatch.setattr(loop._Training, "_one_step", watching)
    run(tmp_path, lineage, recipe(threads_per_rank=before + 1), with_reference=False)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_repeatable_on_the_cpu_leaves_deterministic_mode_alone() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        make_repeatable(2, torch.device("cpu"))
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled() == before[1]
    finally:
        torch.set_num_threads(before[0])
