"""Training in one rank, from the last checkpoint to the end."""

import os
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.artifact import Artifact, FileEntry
from stages.models.build import build_model
from stages.models.weights import check_shapes, load_state
from stages.train.check import uninformative_error
from stages.train.divergence import (
    DIVERGED_ABOVE_CHANCE,
    DIVERGED_STEPS,
    broken_weights_error,
    diverged_error,
    not_finite_error,
    offending_uids,
)
from stages.train.history import History
from stages.train.ledger import Ledger, Uncut
from stages.train.loader import Loader, LocalBatch
from stages.train.meter import Meter
from stages.train.mimic import build_step, resolve_names
from stages.train.notice import Listener, Notice
from stages.train.optimizer import bound_logit_scale, build_optimizer, clip_gradients, learning_rate
from stages.train.order import num_steps
from stages.train.probe import LossDrops, Probe, to_batch
from stages.train.ranks import Ranks
from stages.train.reduce import parallel
from stages.train.resume import Saver, find_checkpoint
from stages.train.spec import Progress, Standing, TrainSpec
from stages.train.step import Outcome
from stages.train.task import Encoders, pixels_of

LEAST_EFFECTIVE_SHARE = 0.5
_REFERENCE_WEIGHTS = "model/open_clip_model.safetensors"


def train(spec: TrainSpec, ranks: Ranks, device: torch.device, progress: Progress) -> Notice:
    """Run the training that `spec` describes; its results are in its last checkpoint.

    Called in every rank, within a process group where there are several.

    Returns:
        Notice.NONE after the last step; else why it left before, with a checkpoint of every step that was done.

    Raises:
        RunError: loss or scores are not finite, or the reference became uninformative and that stops the run.
    """
    make_repeatable(spec.config.threads_per_rank, device)
    training = _Training(spec, ranks, device, progress)
    try:
        return training.run()
    finally:
        training.close()


def make_repeatable(threads: int, device: torch.device) -> None:
    """Fix what the last bits of sums depend on."""
    torch.set_num_threads(threads)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def initial_model(spec_init: Artifact | None, config: Any, seed: int) -> nn.Module:
    """The student: weights of an earlier training, or random ones of this seed.

    Raises:
        UserError: those weights are of another architecture.
    """
    model: nn.Module = build_model(config, seed)
    if spec_init is not None:
        state = load_state(spec_init.read_bytes(_REFERENCE_WEIGHTS), spec_init.uri(_REFERENCE_WEIGHTS))
        check_shapes(state, model, where=spec_init.uri(_REFERENCE_WEIGHTS))
        model.load_state_dict(state)
    return model


class _Training:
    """What one rank holds while it trains."""

    def __init__(self, spec: TrainSpec, ranks: Ranks, device: torch.device, progress: Progress) -> None:
        self._spec, self._config, self._ranks, self._device, self._progress = spec, spec.config, ranks, device, progress
        self._loader = Loader(spec.loader, ranks.rank, ranks.world_size)
        order = self._loader.order
        self._num_steps = num_steps(order, epochs=spec.config.epochs, samples_seen=spec.config.samples_seen)
        self._clip = initial_model(spec.init, spec.config.model, spec.seed).to(device).train()
        self._optimizer = build_optimizer(self._clip, spec.config)
        self._resumed = find_checkpoint(spec, ranks)
        self._resumed.restore(self._clip, self._optimizer)
        self._wrapped = parallel(Encoders(self._clip), ranks, device)
        names = resolve_names(spec.config.model, spec.config.mimic) if spec.reference is not None else ()
        self._step = build_step(
            self._wrapped, spec.config, reference=self._reference_weights(), names=names, ranks=ranks, seed=spec.seed
        )
        self._history = History(self._resumed.history)
        self._ledger = Ledger(spec.output, ranks.rank, self._resumed.uncut) if spec.reference is not None else None
        self._checks: list[dict[str, Any]] = list(self._resumed.checks)
        self._saver = Saver(spec, ranks, self._resumed)
        self._listener = Listener(progress.notice, ranks)
        self._meter = Meter(spec.name, spec.config.batch_size, first=ranks.rank == 0)
        self._probe: Probe | None = None
        self._drops: LossDrops | None = None
        self._shares: list[float] = []
        self._last_losses: deque[float] = deque(maxlen=8)
        self._warned = False

    def run(self) -> Notice:
        """All steps from the checkpoint on, or those before a notice."""
        self._prepare_probe()
        if self._config.method == "score":
            self._clip.eval()
        elif self._config.warmup >= self._num_steps and self._ranks.rank == 0:
            self._progress.warn(
                f"{self._spec.name}: `warmup` ({self._config.warmup}) is not shorter than the training "
                f"({self._num_steps} steps): the learning rate never reaches its height"
            )
        for step, local in self._meter.timed(self._batches()):
            outcome = self._one_step(step, local)
            self._record(step, local, outcome)
            notice = self._listener.after_step()
            if self._checkpoint_due(step + 1):
                self._checkpoint(step + 1)
            elif notice:
                self._checkpoint_before_leaving(step + 1)
            if notice and step + 1 < self._num_steps:
                return notice
        return Notice.NONE

    def close(self) -> None:
        """End what loads beside this process."""
        self._loader.close()

    def _batches(self) -> Iterator[tuple[int, LocalBatch]]:
        step = self._resumed.step
        while step < self._num_steps:
            epoch, first = self._loader.order.cursor(step)
            for local in self._loader.iterate(epoch, first):
                yield step, local
                step += 1
                if step == self._num_steps:
                    return

    def _one_step(self, step: int, local: LocalBatch) -> Outcome:
        batch = to_batch(local, self._device)
        if self._config.method == "score":
            outcome = self._step.score(batch, step)
            self._meter.stepped(outcome)
            self._refuse_not_finite(outcome, step, local)
            return outcome
        self._optimizer.zero_grad(set_to_none=True)
        outcome = self._step.train(batch, step)
        self._meter.stepped(outcome)
        self._refuse_not_finite(outcome, step, local)
        self._refuse_diverged(outcome, step)
        clip_gradients(self._clip.parameters(), self._config)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(step, self._num_steps, self._config)
        self._optimizer.step()
        bound_logit_scale(self._clip)
        return outcome

    def _record(self, step: int, local: LocalBatch, outcome: Outcome) -> None:
        batch_size = self._config.batch_size
        self._shares.append(outcome.effective_share)
        self._last_losses.append(outcome.loss)
        if self._ranks.rank == 0:
            rate = 0.0 if self._config.method == "score" else learning_rate(step, self._num_steps, self._config)
            self._history.append(
                outcome,
                step=step,
                epoch=local.epoch,
                samples_seen=(step + 1) * batch_size,
                learning_rate=rate,
                logit_scale=float(_logit_scale(self._clip)),
            )
            total = self._num_steps * batch_size
            seen, waited = (step + 1) * batch_size, self._loader.wait_share
            self._progress.stand(Standing(seen, total, outcome.loss, outcome.effective_share, waited))
        if self._ledger is not None:
            self._append_to_ledger(self._ledger, step, local, outcome)

    def _append_to_ledger(self, ledger: Ledger, step: int, local: LocalBatch, outcome: Outcome) -> None:
        assert outcome.scores is not None
        size = len(local.scored)
        rows = slice(self._ranks.rank * size, (self._ranks.rank + 1) * size)
        own = local.scored
        ledger.append(
            step,
            uid_hi=local.uid_hi[own],
            uid_lo=local.uid_lo[own],
            visit=local.visit[own],
            score=outcome.scores[rows][own],
            weight=outcome.weights[rows][own],
            loss=outcome.losses[rows][own],
        )

    def _refuse_not_finite(self, outcome: Outcome, step: int, local: LocalBatch) -> None:
        """All ranks see the same outcome, so all of them come here together or none does."""
        values = [outcome.losses] + ([] if outcome.scores is None else [outcome.scores])
        if all(np.isfinite(value).all() for value in values):
            return
        with torch.no_grad():
            outputs = self._task_outputs(local)
        raise not_finite_error(
            f"{self._spec.name}, step {step}",
            outcome,
            self._last_losses,
            offending=offending_uids(outputs, local, self._ranks),
            batch_size=len(outcome.losses),
        )

    def _task_outputs(self, local: LocalBatch) -> list[Tensor]:
        batch = to_batch(local, self._device)
        return list(Encoders(self._clip)(pixels_of(batch), batch.tokens))

    def _refuse_diverged(self, outcome: Outcome, step: int) -> None:
        chance = float(np.log(len(outcome.losses)))
        recent = [*self._last_losses, outcome.loss][-DIVERGED_STEPS:]
        if len(recent) == DIVERGED_STEPS and min(recent) > chance + DIVERGED_ABOVE_CHANCE:
            raise diverged_error(f"{self._spec.name}, step {step}", recent, chance)

    def _checkpoint_due(self, done: int) -> bool:
        every = self._config.checkpoint_every
        epoch_end = done % self._loader.order.num_batches == 0
        return done == self._num_steps or epoch_end or (every is not None and done % every == 0)

    def _checkpoint(self, done: int) -> None:
        self._refuse_broken_weights(done)
        self._check_reference(done)
        self._warn_of_small_effective_batch()
        self._save(done, ledger_part=self._ledger.cut() if self._ledger is not None else None)

    def _checkpoint_before_leaving(self, done: int) -> None:
        """One that nobody planned adds nothing to the result: no check of the reference, no cut of the ledger."""
        self._refuse_broken_weights(done)
        self._save(done, uncut=self._ledger.uncut() if self._ledger is not None else None)

    def _save(self, done: int, *, ledger_part: FileEntry | None = None, uncut: Uncut | None = None) -> None:
        self._saver.save(
            step=done,
            cursor=self._loader.order.cursor(done),
            model=self._clip,
            optimizer=self._optimizer,
            history=self._history,
            checks=self._checks,
            ledger_part=ledger_part,
            uncut=uncut,
            facts={"num_samples": self._loader.order.num_samples, "num_steps": self._num_steps},
        )
        self._meter.checkpointed()
        self._progress.committed(done, self._last_losses[-1])

    def _refuse_broken_weights(self, done: int) -> None:
        """A finite loss can have an infinite gradient: what would only fail in the next step is never committed."""
        broken = [name for name, value in self._clip.state_dict().items() if not torch.isfinite(value).all()]
        if broken:
            raise broken_weights_error(f"{self._spec.name}, after step {done - 1}", broken, self._last_losses)

    def _prepare_probe(self) -> None:
        reference = self._spec.reference
        if reference is None or self._resumed.step >= self._num_steps:
            return
        tables = [file.path for file in reference.files("probe", ".parquet")]
        if tables:
            self._drops = LossDrops.read(reference.read_table(tables[0]))
            self._probe = Probe(self._loader, len(self._drops.by_uid), self._ranks, self._device)
            self._loader.restart_clock()

    def _check_reference(self, done: int) -> None:
        """Is the reference still better where scores say so?"""
        if self._probe is None or self._drops is None or self._config.method == "score":
            return
        found = self._drops.correlation(self._probe.measure(self._step, self._clip))
        epoch = (done - 1) // self._loader.order.num_batches
        self._checks.append(
            {"step": done, "epoch": epoch, "spearman": round(found.spearman, 6), "samples": found.samples}
        )
        if found.verdict == "informative":
            return
        error = uninformative_error(found, f"{self._spec.name}, after step {done}")
        if self._spec.on_uninformative == "stop" and self._config.method == "mimic":
            raise error
        if self._ranks.rank == 0:
            self._progress.warn(str(error))

    def _warn_of_small_effective_batch(self) -> None:
        share = float(np.mean(self._shares)) if self._shares else 1.0
        self._shares = []
        if share < LEAST_EFFECTIVE_SHARE and not self._warned and self._ranks.rank == 0:
            self._warned = True
            self._progress.warn(
                f"{self._spec.name}: weights leave {share:.0%} of the batch in effect; a higher `train.temperature`, "
                "or `{effective_batch: 0.9}`, uses more of each batch"
            )

    def _reference_weights(self) -> dict[str, Tensor] | None:
        reference = self._spec.reference
        if reference is None:
            return None
        return load_state(reference.read_bytes(_REFERENCE_WEIGHTS), reference.uri(_REFERENCE_WEIGHTS))


def _logit_scale(clip: nn.Module) -> Tensor:
    scale: Tensor = clip.logit_scale.detach()  # type: ignore[operator]
    return scale
