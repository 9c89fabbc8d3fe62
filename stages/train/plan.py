"""What a training would take, from its recipe and the size of the pool."""

import math
from collections.abc import Mapping

from pipeline.stage import Size, StagePlan
from pipeline.traffic import Traffic, writes
from stages.train.config import TrainConfig

_LEDGER_BYTES = 34
"""Of a scored sample in Parquet: uid, visit, step, score, weight, loss."""
_ORDER_BYTES = 24
"""Of a row of the order table in Parquet."""
_SHARD_MEMORY = 250
"""Of what each rank holds of a shard: path, counts, place in the epoch."""


def plan_training(config: TrainConfig, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
    """Steps, hours, what ranks read and hold, what ledger and checkpoints take."""
    rows = inputs["subset"].rows if "subset" in inputs else inputs["pool"].rows if "pool" in inputs else 0
    steps = planned_steps(config, rows)
    samples = steps * config.batch_size
    visits = samples if config.samples_seen is not None else rows * (config.epochs or 1)
    ranks = f"{config.num_workers} rank{'s' if config.num_workers > 1 else ''}"
    scored = "reference" in inputs
    unknown = rows == 0 and config.samples_seen is None
    if unknown:
        return StagePlan(Size(0, 0), config.num_workers, note="steps depend on how many samples there are")
    key = "score_samples_per_second_per_gpu" if config.method == "score" else "train_samples_per_second_per_gpu"
    hours = samples / rates[key] / 3600
    weights = 4 * (config.model.num_parameters or 0)
    epochs = config.epochs or (max(1, -(-samples // rows)) if rows else 1)
    checkpoints = -(-steps // config.checkpoint_every) if config.checkpoint_every else epochs
    ledger = visits * _LEDGER_BYTES if scored else 0
    parts = checkpoints * config.num_workers if scored else 0
    window_bytes = config.window * rates["bytes_per_sample"]
    shards = (inputs["pool"].rows if "pool" in inputs else rows) / rates["samples_per_shard"]
    return StagePlan(
        output=Size(visits if scored else 0, ledger + weights * (1 + epochs)),
        partitions=config.num_workers,
        peak_task_bytes=int(2 * config.lanes // config.num_workers * window_bytes + shards * _SHARD_MEMORY),
        steps=steps,
        gpu_hours=hours if config.use_gpu else 0.0,
        cpu_hours=0.0 if config.use_gpu else hours * config.num_workers,
        note=f"{config.method}, {ranks}",
        # A window is a stretch of one shard, or of two where it ends inside one.
        traffic=Traffic(
            int(samples * (rates["bytes_per_sample"] + _ORDER_BYTES)), int(samples / config.window + epochs * shards)
        )
        + writes(parts + 4 * checkpoints + epochs + 4),
        private_bytes=3 * weights * checkpoints,
        num_files=parts + epochs + 5,
    )


def planned_steps(config: TrainConfig, rows: int) -> int:
    """Steps of a training over so many samples."""
    if config.samples_seen is not None:
        return math.ceil(config.samples_seen / config.batch_size)
    return (config.epochs or 1) * math.ceil(rows / config.batch_size)
