"""What a checkpoint holds: everything from which training goes on as if it had never stopped."""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import nn

from pipeline.artifact import FileEntry, parquet_bytes
from stages.formats.ledger import LEDGER
from stages.models.weights import CONFIG_NAME, load_state, model_files, save_state
from stages.train.checkpoint import Checkpoint, CheckpointStore, dump_state
from stages.train.checkpoint import load_state as load_training_state
from stages.train.history import History
from stages.train.ledger import Uncut
from stages.train.ranks import Ranks
from stages.train.spec import HISTORY, MODEL_CONFIG, OPTIMIZER, WEIGHTS, TrainSpec, uncut_name


@dataclass(frozen=True)
class Resumed:
    """Where training goes on."""

    step: int = 0
    """Steps that are done."""
    checkpoint: Checkpoint | None = None
    store: CheckpointStore | None = None
    history: pa.Table | None = None
    """Of rank 0."""
    checks: tuple[dict[str, Any], ...] = ()
    epochs: Mapping[str, Any] = field(default_factory=dict)
    """Finished epochs -> entry of the weights after them."""
    ledger: tuple[FileEntry, ...] = ()
    uncut: Uncut | None = None
    """What this rank had scored since its ledger was last cut."""

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put weights and optimizer into the state of the checkpoint, if there is one."""
        if self.checkpoint is None or self.store is None:
            return
        model.load_state_dict(load_state(self.store.read(self.checkpoint, WEIGHTS)))
        optimizer.load_state_dict(load_training_state(self.store.read(self.checkpoint, OPTIMIZER)))


def find_checkpoint(spec: TrainSpec, ranks: Ranks) -> Resumed:
    """The furthest checkpoint, the same for all ranks."""
    store = CheckpointStore(spec.output)
    # Another driver may be committing meanwhile: rank 0 decides.
    found = ranks.word_of_first(store.latest() if ranks.rank == 0 else None)
    if found is None:
        return Resumed()
    history = pq.read_table(io.BytesIO(store.read(found, HISTORY))) if ranks.rank == 0 else None
    return Resumed(
        step=found.step,
        checkpoint=found,
        store=store,
        history=history,
        checks=tuple(found.facts["checks"]),
        epochs=found.facts["epochs"],
        ledger=found.ledger,
        uncut=_uncut(store, found, ranks),
    )


def _uncut(store: CheckpointStore, found: Checkpoint, ranks: Ranks) -> Uncut | None:
    """What this rank goes on with; where the number of ranks has changed, what those scored whose place it takes."""
    if "uncut_from" not in found.facts:
        return None
    old, new = found.world_size, ranks.world_size
    parts = [store.read(found, uncut_name(rank)) for rank in range(old) if rank * new // old == ranks.rank]
    if len(parts) != 1:
        tables = [LEDGER.empty_table(), *(pq.read_table(io.BytesIO(part), schema=LEDGER) for part in parts)]
        parts = [parquet_bytes(pa.concat_tables(tables).combine_chunks().sort_by("step"))]
    return Uncut(int(found.facts["uncut_from"]), found.step - 1, parts[0])


class Saver:
    """Puts checkpoints; every rank holds one."""

    def __init__(self, spec: TrainSpec, ranks: Ranks, resumed: Resumed) -> None:
        """Go on from the lists of an earlier checkpoint."""
        self._spec, self._ranks = spec, ranks
        self._store = CheckpointStore(spec.output)
        self._epochs = dict(resumed.epochs)
        before = resumed.checkpoint.world_sizes if resumed.checkpoint is not None else []
        self._before = before[:-1] if before[-1:] == [ranks.world_size] else before
        self._ledger = list(resumed.ledger)

    def save(
        self,
        *,
        step: int,
        cursor: tuple[int, int],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        history: History,
        checks: list[dict[str, Any]],
        ledger_part: FileEntry | None,
        uncut: Uncut | None,
        facts: Mapping[str, Any],
    ) -> None:
        """Commit a checkpoint; returns in every rank once it exists.

        Args:
            step: steps that are done.
            cursor: (epoch, batch) of the next batch; at batch 0 an epoch is finished and its model is kept.
            model: the same in all ranks.
            optimizer: the same in all ranks.
            history: of rank 0.
            checks: of the reference, so far.
            ledger_part: what this rank scored since its ledger was last cut, where that was cut now.
            uncut: the same, where it was not.
            facts: further values to find again, as JSON.
        """
        rows = None if uncut is None else self._store.put(step, uncut_name(self._ranks.rank), uncut.data)
        parts, everyones_rows = self._everyones(ledger_part), self._everyones(rows)
        self._ledger += [part for part in parts if part is not None]
        if self._ranks.rank == 0:
            files = self._put(step, model, optimizer, history)
            more: dict[str, Any] = {} if uncut is None else {"uncut_from": uncut.first_step}
            if self._before:
                more["world_sizes"] = self._before
            if cursor[1] == 0:
                self._epochs[str(cursor[0])] = asdict(files[0])
            self._store.commit(
                step=step,
                epoch=cursor[0],
                batch=cursor[1],
                world_size=self._ranks.world_size,
                files=[*files, *(entry for entry in everyones_rows if entry is not None)],
                ledger=self._ledger,
                facts={**facts, **more, "checks": checks, "epochs": self._epochs},
            )
        self._ranks.barrier()

    def _put(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, history: History) -> list[FileEntry]:
        content = {
            WEIGHTS: save_state(model.state_dict()),
            OPTIMIZER: dump_state(optimizer.state_dict()),
            HISTORY: parquet_bytes(history.table()),
            MODEL_CONFIG: model_files(model, self._spec.config.model)[CONFIG_NAME],
        }
        return [self._store.put(step, name, data) for name, data in content.items()]

    def _everyones(self, part: FileEntry | None) -> list[FileEntry | None]:
        if self._ranks.world_size == 1:
            return [part]
        parts: list[FileEntry | None] = [None] * self._ranks.world_size
        dist.all_gather_object(parts, part)
        return parts
