"""Two ranks give one rank's scores and gradients; four give the same bits resumed or not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.models.config import ModelConfig
from stages.train.config import EffectiveBatch, Tower, TrainConfig
from stages.train.direction import WeightDifference
from stages.train.optimizer import build_optimizer
from stages.train.ranks import Ranks
from stages.train.reduce import parallel
from stages.train.step import Step
from stages.train.tail import TailTangent
from stages.train.task import Batch, ContrastiveTask, Encoders
from stages.train.weighting import SoftmaxWeighting
from tests.stages.train.spawn import run_ranks
from tests.stages.train.tiny import (
    difference,
    gradients_of,
    names_for,
    slow_gradients,
    slow_scores,
    tiny_batch,
    tiny_clip,
)

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


def straight_or_resumed(pause: int | None, steps: int) -> tuple[dict[str, Tensor], Any]:
    """Weights and optimizer state after `steps`; with `pause`, everything is rebuilt from a copy there."""
    ranks = Ranks.current()
    config = TrainConfig(model=ModelConfig(name="ViT-B-32"), epochs=1, learning_rate=1e-2)
    student = tiny_clip(0).float()
    optimizer = build_optimizer(student, config)
    step = step_of(student, "image", ranks, 1, EffectiveBatch(effective_batch=0.7))
    for number in range(steps):
        if number == pause:
            weights = {name: tensor.clone() for name, tensor in student.state_dict().items()}
            state = optimizer.state_dict()
            student = tiny_clip(9).float()
            student.load_state_dict(weights)
            optimizer = build_optimizer(student, config)
            optimizer.load_state_dict(state)
            step = step_of(student, "image", ranks, 1, EffectiveBatch(effective_batch=0.7))
        batch = tiny_batch(16, seed=number)
        optimizer.zero_grad()
        step.train(share_of(Batch(batch.images.float(), batch.tokens, batch.scored), ranks), number)
        optimizer.step()
    return student.state_dict(), optimizer.state_dict()


def both_ways() -> list[Any]:
    return [straight_or_resumed(None, 5), straight_or_resumed(2, 5), order_of_sum()]


def order_of_sum() -> tuple[Tensor, Tensor]:
    """A sum over ranks whose value depends on the order of its terms, whole and in uneven slices."""
    ranks = Ranks.current()
    generator = torch.Generator().manual_seed(ranks.rank)
    flat = torch.randn(103, generator=generator) * 10.0 ** (3 * ranks.rank)
    slices = torch.cat([ranks.sum_in_order(piece) for piece in flat.split([1, 50, 7, 45])])
    return ranks.sum_in_order(flat), slices


def test_four_ranks_resumed_run_equals_straight_run_bit_by_bit(tmp_path: Path) -> None:
    results = run_ranks(4, both_ways, tmp_path)
    (weights, state), (resumed, resumed_state), _ = results[0]
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    for key, slots in state["state"].items():
        assert all(torch.equal(slots[slot], resumed_state["state"][key][slot]) for slot in slots)
    for (others, _), _, _ in results[1:]:
        assert all(torch.equal(weights[name], others[name]) for name in weights), "ranks drifted apart"
    expected = torch.zeros(103)
    for rank in range(4):
        expected += torch.randn(103, generator=torch.Generator().manual_seed(rank)) * 10.0 ** (3 * rank)
    for _, _, (whole, sliced) in results:
        assert torch.equal(whole, expected)
        assert torch.equal(sliced, expected)
