"""Compare scores at theta_0 with what theta_ref does better, on the first batches of the pool's order."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.artifact import Artifact, ArtifactWriter, FileEntry
from pipeline.engine import Engine
from pipeline.storage import Storage
from stages.models.config import ModelConfig
from stages.train.config import TrainConfig
from stages.train.loader import LoaderSpec

_PIECE = 256
"""Samples that pass through a model at once."""


@dataclass(frozen=True)
class ReferenceCheck:
    """What one process needs for the check; picklable."""

    train: TrainConfig
    loader: LoaderSpec
    num_samples: int
    seed: int
    output: ArtifactWriter
    storage: Storage
    source: str
    init: Artifact | None
    """theta_0; random weights of this seed without."""
    weights: Artifact | None
    """theta_ref, if a training of this run made it; else `source` says."""


def measure_anywhere(check: ReferenceCheck, engine: Engine) -> tuple[tuple[FileEntry, ...], dict[str, Any]]:
    """Measure on some node; on a GPU where training has them."""
    return engine.map(
        measure,
        [check],
        name="reference check",
        num_gpus=1.0 if check.train.use_gpu else 0.0,
        role=engine.config.trainers,
    )[0]


def measure(check: ReferenceCheck) -> tuple[tuple[FileEntry, ...], dict[str, Any]]:
    """Put the reference's files; their entries, and what is in check.json."""
    from stages.models.threads import fixed_threads  # here, so that the stage can name this module without torch

    with fixed_threads(check.train.threads_per_rank * check.train.num_workers):
        return _measure(check)


def _measure(check: ReferenceCheck) -> tuple[tuple[FileEntry, ...], dict[str, Any]]:
    import torch

    from stages.models.weights import model_files
    from stages.train.loader import Loader
    from stages.train.loop import initial_model, make_repeatable
    from stages.train.mimic import build_step, resolve_names
    from stages.train.probe import LossDrops, Probe, probe_table
    from stages.train.ranks import Ranks
    from stages.train.task import Encoders

    config, alone = check.train, Ranks()
    device = torch.device("cuda" if config.use_gpu and torch.cuda.is_available() else "cpu")
    make_repeatable(config.threads_per_rank * config.num_workers, device)
    pieces = config.model_copy(update={"accumulation": -(-config.batch_size // _PIECE)})
    student = initial_model(check.init, config.model, check.seed).to(device)
    reference = _reference_model(check).to(device)
    probe = Probe(Loader(check.loader, 0, 1), check.num_samples, alone, device)
    state = {name: tensor.detach() for name, tensor in reference.named_parameters()}
    names = resolve_names(config.model, config.mimic)
    scorer = build_step(Encoders(student), pieces, reference=state, names=names, ranks=alone, seed=check.seed)
    judge = build_step(Encoders(reference), pieces, reference=None, names=(), ranks=alone, seed=check.seed)
    before, after = probe.measure(scorer, student), probe.measure(judge, reference)
    table = probe_table(before, after)
    found = LossDrops.read(table).correlation(before)
    result = {
        "spearman": round(found.spearman, 6),
        "samples": found.samples,
        "verdict": found.verdict,
        "theta_0_loss": round(float(np.concatenate([batch.losses for batch in before]).mean()), 6),
        "theta_ref_loss": round(float(np.concatenate([batch.losses for batch in after]).mean()), 6),
    }
    files = [
        check.output.put_bytes(f"model/{name}", data) for name, data in model_files(reference, config.model).items()
    ]
    files.append(check.output.put_table_by_content("probe", table))
    files.append(check.output.put_json("check.json", result))
    return tuple(files), result


def check_source(source: str, model: ModelConfig, storage: Storage) -> None:
    """Refuse weights from outside that do not fit the model.

    Raises:
        UserError: nothing is there, it cannot be read, parameters differ (names them with both shapes) or are NaN.
    """
    import torch

    from stages.models.build import build_model
    from stages.models.weights import check_finite, check_shapes, read_pretrained

    with torch.device("meta"):
        empty = build_model(model, seed=0)
    state = read_pretrained(source, model, storage)
    check_shapes(state, empty, where=source)
    check_finite(state, where=source)


def _reference_model(check: ReferenceCheck) -> Any:
    from stages.models.build import build_model
    from stages.models.weights import check_shapes, read_pretrained
    from stages.train.loop import initial_model

    if check.weights is not None:
        return initial_model(check.weights, check.train.model, check.seed)
    model = build_model(check.train.model, check.seed)
    state = read_pretrained(check.source, check.train.model, check.storage)
    check_shapes(state, model, where=check.source)
    model.load_state_dict(state)
    return model
