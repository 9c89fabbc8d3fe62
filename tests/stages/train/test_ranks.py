"""Two ranks give one rank's scores and gradients; four give the same bits resumed or not."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages.models.build import build_model
from stages.models.weights import model_files
from stages.train import loop
from stages.train.checkpoint import CheckpointStore
from stages.train.config import EffectiveBatch, Tower, TrainConfig
from stages.train.direction import WeightDifference
from stages.train.notice import Listener, Notice
from stages.train.ranks import Ranks
from stages.train.reduce import parallel
from stages.train.spec import Standing, TrainSpec
from stages.train.stage import loader_spec
from stages.train.step import Step
from stages.train.tail import TailTangent
from stages.train.task import Batch, ContrastiveTask, Encoders
from stages.train.weighting import SoftmaxWeighting
from tests.artifacts import commit
from tests.stages.train.spawn import run_ranks
from tests.stages.train.test_stage import recipe
from tests.stages.train.tiny import (
    difference,
    gradients_of,
    names_for,
    slow_gradients,
    slow_scores,
    tiny_batch,
    tiny_clip,
)
from tests.stages.train.tiny_pool import make_pool

CPU = torch.device("cpu")


def share_of(batch: Batch, ranks: Ranks) -> Batch:
    return batch.pieces(ranks.world_size)[ranks.rank]


def step_of(student: nn.Module, tower: Tower, ranks: Ranks, accumulation: int, temperature: Any) -> Step:
    reference = dict(tiny_clip(1).to(next(student.parameters()).dtype).named_parameters())
    names = names_for(tower)
    towers = ("image", "text") if tower == "both" else (tower,)
    return Step(
        parallel(Encoders(student), ranks, CPU),
        ContrastiveTask({t: TailTangent(student, t) for t in towers}),
        SoftmaxWeighting(temperature),
        direction=WeightDifference({name: reference[name].detach() for name in names}),
        mimicked=tuple(names),
        accumulation=accumulation,
        ranks=ranks,
    )


def trained(tower: Tower, accumulation: int, steps: int) -> list[tuple[Any, dict[str, Tensor]]]:
    """Outcome and gradients of consecutive steps from the same weights."""
    student = tiny_clip(0)
    ranks = Ranks.current()
    step = step_of(student, tower, ranks, accumulation, 0.05)
    results = []
    for number in range(steps):
        student.zero_grad()
        outcome = step.train(share_of(tiny_batch(12, seed=number, fillers=3), ranks), number)
        results.append((outcome, gradients_of(student)))
    return results


CASES: list[tuple[Tower, int]] = [("image", 1), ("text", 1), ("both", 1), ("both", 3)]


def all_cases() -> list[Any]:
    return [trained(tower, accumulation, steps=2) for tower, accumulation in CASES]


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return run_ranks(2, all_cases, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{tower}-{pieces}" for tower, pieces in CASES])
def test_two_ranks_scores_and_gradients_equal_brute_force(of_two_ranks: list[Any], case: int) -> None:
    student, reference = tiny_clip(0), tiny_clip(1)
    direction = difference(student, reference, names_for(CASES[case][0]))
    for number in range(2):  # the second step runs on rebuilt buckets
        batch = tiny_batch(12, seed=number, fillers=3)
        expected = slow_scores(student, direction, batch).detach().numpy()
        for rank in range(2):
            outcome, gradients = of_two_ranks[rank][case][number]
            assert abs(outcome.scores - expected).max() <= 1e-9 * abs(expected).max()
            wanted = slow_gradients(student, batch, torch.from_numpy(outcome.weights))
            assert gradients.keys() == wanted.keys()
            for name in wanted:
                error = float((gradients[name] - wanted[name]).abs().max())
                assert error <= 1e-9 * float(wanted[name].abs().max()) + 1e-300, name


def test_two_ranks_agree_to_the_bit(of_two_ranks: list[Any]) -> None:
    for mine, other in zip(*of_two_ranks, strict=True):
        for (outcome, gradients), (others, their) in zip(mine, other, strict=True):
            np.testing.assert_array_equal(outcome.weights, others.weights)
            np.testing.assert_array_equal(outcome.scores, others.scores)
            assert all(torch.equal(gradients[name], their[name]) for name in gradients)


class Interrupted(Exception):
    pass


class Quiet:
    """Rank 0 hears after a number of steps that the node leaves; what other ranks hear does not count."""

    def __init__(self, leave_after: int | None, rank: int) -> None:
        self._left = leave_after if rank == 0 else 1

    def stand(self, standing: Standing) -> None: ...

    def warn(self, text: str) -> None: ...

    def committed(self, step: int, loss: float) -> None: ...

    def notice(self) -> Notice:
        if self._left is None:
            return Notice.NONE
        self._left -= 1
        return Notice.NONE if self._left else Notice.NODE_LEAVES


def trained_by_loop(spec: TrainSpec, *, stop: int | None = None, leave_after: int | None = None) -> None:
    """The stage's own loop in this rank.

    With `stop` every rank breaks off before that step; with `leave_after` all leave, on a notice, after so many.
    """
    ranks = Ranks.current()
    whole = loop._Training._one_step
    loop.Listener = partial(Listener, seconds=0)  # type: ignore[misc, assignment]

    def stopping(training: Any, step: int, local: Any) -> Any:
        if step == stop:
            raise Interrupted
        return whole(training, step, local)

    loop._Training._one_step = stopping  # type: ignore[method-assign]
    try:
        notice = loop.train(spec, ranks, CPU, Quiet(leave_after, ranks.rank))
        assert notice is (Notice.NONE if leave_after is None else Notice.NODE_LEAVES)
    except Interrupted:
        assert stop is not None
    finally:
        loop._Training._one_step = whole  # type: ignore[method-assign]


def straight_and_resumed(straight: TrainSpec, resumed: TrainSpec) -> tuple[Tensor, Tensor]:
    trained_by_loop(straight)
    trained_by_loop(resumed, leave_after=2)  # checkpoints are planned at 3, 4, 6 and 8
    trained_by_loop(resumed, stop=5)  # the last checkpoint is at 4, an epoch's end; step 4 is done twice
    trained_by_loop(resumed, leave_after=1)
    trained_by_loop(resumed)
    return order_of_sum()


def order_of_sum() -> tuple[Tensor, Tensor]:
    """A sum over ranks whose value depends on the order of its terms, whole and in uneven slices."""
    ranks = Ranks.current()
    generator = torch.Generator().manual_seed(ranks.rank)
    flat = torch.randn(103, generator=generator) * 10.0 ** (3 * ranks.rank)
    slices = torch.cat([ranks.sum_in_order(piece) for piece in flat.split([1, 50, 7, 45])])
    return ranks.sum_in_order(flat), slices


def refer_to(root: Path, config: TrainConfig) -> Artifact:
    """Random weights of another seed as the weights to mimic."""
    writer = ArtifactWriter(str(root), Storage())
    files = model_files(build_model(config.model, 9), config.model)
    entries = tuple(writer.put_bytes(f"model/{name}", data) for name, data in files.items())
    return commit(root, "reference", StageResult(entries))


def test_four_ranks_resumed_run_equals_straight_run_bit_by_bit(tmp_path: Path) -> None:
    pool, pool_path = make_pool(tmp_path / "pool", [23, 17, 21])
    config = recipe(
        method="mimic", epochs=2, batch_size=16, lanes=4, num_workers=4, checkpoint_every=3, accumulation=2,
        temperature=EffectiveBatch(effective_batch=0.7), grad_clip=0.5,
    )  # fmt: skip
    reference = refer_to(tmp_path / "reference", config)
    straight, resumed = (
        TrainSpec(
            config=config,
            seed=3,
            loader=loader_spec(config, pool, pool_path, 3),
            output=ArtifactWriter(str(tmp_path / name), Storage()),
            name="training/mimic",
            reference=reference,
        )
        for name in ("straight", "resumed")
    )
    sums = run_ranks(4, straight_and_resumed, tmp_path, straight, resumed)
    left = {path.parent.name for path in (tmp_path / "resumed").rglob("uncut-*")}
    assert left == {"step-000000002", "step-000000005"}
    ends = [CheckpointStore(spec.output).latest() for spec in (straight, resumed)]
    assert [end and end.step for end in ends] == [8, 8]
    assert ends[0] == ends[1], "weights, optimizer, history and ledger are named by their content"
    expected = torch.zeros(103)
    for rank in range(4):
        expected += torch.randn(103, generator=torch.Generator().manual_seed(rank)) * 10.0 ** (3 * rank)
    for whole, sliced in sums:
        assert torch.equal(whole, expected)
        assert torch.equal(sliced, expected)
