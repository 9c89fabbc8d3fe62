"""One step: outputs, scores, weights, and the gradient of sum_i w_i l_i over the global batch.

The loss of a contrastive batch couples all its samples, so the step runs in two halves. The first gives the
outputs of all samples, and from them losses, scores and weights. The second takes the gradient of the weighted
loss with respect to this rank's outputs and sends it through the model, whole or in pieces: accumulation and
ranks divide the work, never the batch.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn.parallel import DistributedDataParallel

from stages.train.config import Reading
from stages.train.direction import Direction, norm
from stages.train.ranks import Ranks
from stages.train.task import Batch, Outputs, Task
from stages.train.weighting import Weighting


@dataclass(frozen=True)
class Outcome:
    """What one step found, of the global batch in rank order, on the CPU."""

    losses: np.ndarray
    """l_i, float64 [B]."""
    scores: np.ndarray | None
    """m_i, float64 [B]; None without a direction."""
    weights: np.ndarray
    """w_i, float64 [B]; 0 for fillers."""
    scored: np.ndarray
    """bool [B]; False for fillers."""
    temperature: float | None
    effective_share: float
    """1 / sum(w^2) over the number of scored samples."""
    direction_norm: float | None
    """||v||."""

    @property
    def loss(self) -> float:
        """Mean loss of the scored samples."""
        return float(self.losses[self.scored].mean())


@dataclass(frozen=True)
class Precision:
    """How forward and backward are computed."""

    autocast: bool = False
    """bfloat16 where torch thinks it safe."""

    def on(self, device: torch.device) -> "torch.autocast":
        """The context in which the model runs."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.autocast)


class Step:
    """Computes steps for one model, task, direction and weighting."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        weighting: Weighting,
        *,
        direction: Direction | None = None,
        mimicked: tuple[str, ...] = (),
        reading: Reading = "own_loss",
        accumulation: int = 1,
        precision: Precision | None = None,
        ranks: Ranks | None = None,
        seed: int = 0,
    ) -> None:
        """Compose a step.

        Args:
            model: `Encoders`, or its data-parallel wrapper that *sums* gradients over ranks.
            task: outputs and losses.
            weighting: scores to weights.
            direction: v; without it nothing is scored.
            mimicked: names of the mimicked parameters in the CLIP model.
            reading: what a sample's gradient is.
            accumulation: pieces of this rank's share.
            precision: of forward and backward; float32 by default.
            ranks: this process among its peers; alone by default.
            seed: of dropout; each step, rank and piece draws its own, so that pieces can be repeated.
        """
        self._wrapped = model
        self._encoders = model.module if isinstance(model, DistributedDataParallel) else model
        self._clip: nn.Module = self._encoders.clip  # type: ignore[assignment]
        self._task, self._weighting, self._direction = task, weighting, direction
        self._mimicked, self._reading = mimicked, reading
        self._accumulation, self._seed = accumulation, seed
        self._precision, self._ranks = precision or Precision(), ranks or Ranks()

    def train(self, batch: Batch, step: int) -> Outcome:
        """Score a batch and leave the gradient of sum_i w_i l_i in the parameters' `.grad`.

        Args:
            batch: this rank's share.
            step: number of the step.
        """
        pieces = batch.pieces(self._accumulation)
        whole = len(pieces) == 1
        kept: Outputs | None = None
        direction = self._current_direction()
        outputs, tangents = [], []
        for index, piece in enumerate(pieces):
            with torch.enable_grad() if whole else torch.no_grad():
                produced = self._forward(piece, step, index, synchronised=whole)
            kept = produced if whole else None
            outputs.append(tuple(tensor.detach() for tensor in produced))
            tangents.append(self._tangents(piece, direction))
        local = _concatenated(outputs)
        outcome, weights = self._judge(batch, local, _concatenated(tangents), direction)
        del direction, tangents  # the backward pass is where memory runs short
        gradients, scalar_gradients = self._gradients(batch, local, weights)
        for index, (piece, cotangents) in enumerate(zip(pieces, _split(gradients, len(pieces)), strict=True)):
            last = index == len(pieces) - 1
            with self._synchronised_if(last), torch.enable_grad():
                produced = kept if kept is not None else self._forward(piece, step, index, synchronised=True)
                terms = [(out * cotangent).sum() for out, cotangent in zip(produced, cotangents, strict=True)]
                if last:
                    scalars = self._task.scalars(self._clip)
                    terms += [(scalars[name] * value).sum() for name, value in scalar_gradients.items()]
                torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]
        return outcome

    def score(self, batch: Batch, step: int = 0) -> Outcome:
        """Losses and scores of a batch, without any gradient."""
        direction = self._current_direction()
        outputs, tangents = [], []
        for index, piece in enumerate(batch.pieces(self._accumulation)):
            with torch.no_grad():
                outputs.append(self._forward(piece, step, index, synchronised=False))
            tangents.append(self._tangents(piece, direction))
        return self._judge(batch, _concatenated(outputs), _concatenated(tangents), direction)[0]

    def _current_direction(self) -> dict[str, Tensor]:
        if self._direction is None:
            return {}
        parameters = dict(self._clip.named_parameters())
        return self._direction.at({name: parameters[name] for name in self._mimicked})

    def _forward(self, piece: Batch, step: int, index: int, *, synchronised: bool) -> Outputs:
        torch.manual_seed(_mix(self._seed, step, self._ranks.rank, index))
        with self._precision.on(piece.tokens.device):
            return self._task.outputs(self._wrapped if synchronised else self._encoders, piece)

    def _tangents(self, piece: Batch, direction: Mapping[str, Tensor]) -> Outputs:
        return self._task.tangents(piece, direction) if direction else ()

    def _judge(
        self, batch: Batch, local: Outputs, tangents: Outputs, direction: Mapping[str, Tensor]
    ) -> tuple[Outcome, Tensor]:
        """Losses, scores and weights of the global batch, equal on all ranks; and this rank's weights."""
        everyone = self._gathered(local)
        length = norm(direction) if direction else None
        with torch.no_grad():
            if length is None:
                losses, scores = self._losses(batch, local, everyone, self._scalars()), None
            else:
                losses, slopes = self._losses_and_slopes(batch, local, everyone, tangents)
                scores = -slopes / length
        columns = [losses, batch.scored.to(losses.dtype)] + ([] if scores is None else [scores])
        table = self._ranks.gather(torch.stack(columns, dim=1)).double().cpu().numpy()  # [B, 2 or 3]
        scored = table[:, 1] > 0
        found = None if scores is None else table[:, 2]
        weights = self._weighting.weigh(found, scored)
        size = len(batch)
        own = weights.values[self._ranks.rank * size : (self._ranks.rank + 1) * size]
        outcome = Outcome(
            table[:, 0], found, weights.values, scored, weights.temperature, weights.effective_share, length
        )
        return outcome, torch.from_numpy(own).to(local[0])

    def _losses(self, batch: Batch, local: Outputs, everyone: Outputs, scalars: Mapping[str, Tensor]) -> Tensor:
        with torch.autocast(local[0].device.type, enabled=False):
            return self._task.losses(batch, local, everyone, scalars)

    def _losses_and_slopes(
        self, batch: Batch, local: Outputs, everyone: Outputs, tangents: Outputs
    ) -> tuple[Tensor, Tensor]:
        """l_i and its derivative along v, [b] each."""
        moves = tuple(
            tangent.to(output) if tangent.shape == output.shape else torch.zeros_like(output)
            for output, tangent in zip(local, tangents, strict=True)
        )
        scalars = self._scalars()
        if self._reading == "path":
            losses = self._losses(batch, local, everyone, scalars)
            scored = batch.scored.to(losses.dtype)
            number = self._ranks.gather(scored).sum()
            gradients, _ = self._gradients(batch, local, scored / number)
            flows = [(gradient * move).sum(dim=1) for gradient, move in zip(gradients, moves, strict=True)]
            return losses, torch.stack(flows).sum(dim=0) * number
        # Tangents are gathered as plain tensors: a collective would drop the dual part.
        everyone_moves = self._gathered(moves)
        found: tuple[Tensor, Tensor] = jvp(  # type: ignore[assignment]
            lambda mine, all_: self._losses(batch, mine, all_, scalars), (local, everyone), (moves, everyone_moves)
        )
        return found

    def _gradients(self, batch: Batch, local: Outputs, weights: Tensor) -> tuple[Outputs, dict[str, Tensor]]:
        """Gradient of sum_i w_i l_i over *all* ranks by this rank's outputs, and its own part of that by scalars."""
        mine = tuple(tensor.detach().requires_grad_() for tensor in local)
        everyone = tuple(tensor.requires_grad_() for tensor in self._gathered(local))
        scalars = {name: tensor.requires_grad_() for name, tensor in self._scalars().items()}
        with torch.enable_grad():
            total = (weights * self._losses(batch, mine, everyone, scalars)).sum()
            inputs = [*mine, *everyone, *scalars.values()]
            found = torch.autograd.grad(total, inputs, materialize_grads=True)
        number = len(local)
        as_others = self._ranks.scatter_sum(torch.cat([tensor.detach() for tensor in found[number : 2 * number]], 1))
        summed = tuple(own + other for own, other in zip(found[:number], _columns(as_others, local), strict=True))
        return summed, dict(zip(scalars, found[2 * number :], strict=True))

    def _scalars(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._task.scalars(self._clip).items()}

    def _gathered(self, local: Outputs) -> Outputs:
        return _columns(self._ranks.gather(torch.cat(local, dim=1)), local)

    @contextmanager
    def _synchronised_if(self, last: bool) -> Iterator[None]:
        """Let gradients be reduced in the last backward only."""
        quiet: Callable[[], object] = getattr(self._wrapped, "no_sync", nullcontext)
        with nullcontext() if last else quiet():  # type: ignore[attr-defined]
            yield


def _columns(joined: Tensor, like: Outputs) -> Outputs:
    """Cut what was joined along columns for one exchange."""
    return torch.split(joined, [tensor.shape[1] for tensor in like], dim=1)


def _concatenated(pieces: list[Outputs]) -> Outputs:
    return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))


def _split(outputs: Outputs, number: int) -> list[Outputs]:
    return list(zip(*(tensor.chunk(number) for tensor in outputs), strict=True))


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
