"""A whole run of a few seconds, every kind of its inputs in a place that may be a bucket."""

import io
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipeline.curation import Curation
from pipeline.errors import GradsieveError
from pipeline.progress import Reporter
from pipeline.run_record import open_artifacts
from pipeline.storage import Storage, join
from pipeline.yaml_config import read_config_text
from stages.models.build import build_model
from stages.models.config import ModelConfig
from stages.models.weights import save_state
from tests.object_store.processes import CONTEXT
from tests.stages.pool.pools import plain_pool, write_metadata

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 16, "head_width": 8},
    "text_cfg": {"context_length": 16, "layers": 1, "width": 16, "heads": 2},
}
CONFIGURATION = """
seed: 0
output: {output}
pool: {{path: {inputs}/shards, metadata: {inputs}/metadata, check: headers, bucket_rows: 30}}
reference: {{source: "{inputs}/reference.safetensors", on_uninformative: warn, check_samples: 16}}
train:
  method: mimic
  epochs: 1
  batch_size: 16
  learning_rate: 1e-3
  warmup: 1
  temperature: 0.5
  lanes: 2
  num_workers: 1
  precision: fp32
  checkpoint_every: 2
  model: {model}
selectors:
  loss: {{kind: loss}}
  clip_score: {{kind: clip_score, column: clip}}
  elsewhere: {{kind: table, path: {inputs}/scores.parquet}}
binarize: {{method: top_fraction, fraction: 0.5}}
aggregate: {{method: majority}}
select:
  rule: {{top: {{by: p_keep, fraction: 0.5, of: scored}}}}
  exclude: ["{inputs}/exclude.txt"]
reshard: {{shard_size: 10}}
evaluate: "off"
report: {{}}
cluster: {{executor: in_process}}
"""
NUM_SAMPLES = 48
DELIVERABLES = ("subset", "shards")


def make_inputs(folder: Path) -> None:
    """Pool, metadata, weights to mimic, scores made elsewhere, a takedown list: all that a run can read."""
    pairs = plain_pool(folder / "shards", 4, NUM_SAMPLES // 4)
    uids = [item.uid for item in pairs]
    numbers = np.arange(NUM_SAMPLES)
    write_metadata(folder / "metadata", "part.parquet", uids, clip=(numbers * 7 % 48 / 48).astype(np.float32))
    pq.write_table(pa.table({"uid": uids, "score": numbers * 5 % 48 / 48}), folder / "scores.parquet")
    weights = build_model(ModelConfig.model_validate(MODEL), seed=1).state_dict()
    (folder / "reference.safetensors").write_bytes(save_state(weights))
    (folder / "exclude.txt").write_text(f"{uids[3]}\n{uids[40]}\n")


def upload(folder: Path, uri: str, storage: Storage) -> None:
    """Copy a folder's files into a bucket."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.put_file(join(uri, str(path.relative_to(folder))), path)


def configuration(inputs: str, output: str) -> str:
    """The YAML text of the run."""
    return CONFIGURATION.format(inputs=inputs, output=output, model=MODEL)


def run_short(config: str, *overrides: str) -> str:
    """Run a configuration by its path or URI in this process; what it would print.

    Raises:
        GradsieveError: as the command would tell.
    """
    told = io.StringIO()
    text = read_config_text(config, Storage())
    curation = Curation.from_text(text, overrides, config, Reporter(Console(file=told, width=400)))
    lines: Sequence[str] = curation.run()
    return told.getvalue() + "\n".join(lines)


def start_short(
    config: str, overrides: Sequence[str], environment: Mapping[str, str]
) -> tuple[BaseProcess, Connection]:
    """The same in a process of its own, which sends what it would print, and leaves with a run's exit code."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_run_and_tell, args=(config, tuple(overrides), dict(environment), theirs))
    process.start()
    theirs.close()
    return process, ours


def _run_and_tell(config: str, overrides: Sequence[str], environment: Mapping[str, str], pipe: Connection) -> None:
    os.environ.update(environment)
    try:
        pipe.send(run_short(config, *overrides))
    except GradsieveError as error:
        pipe.send(str(error))
        sys.exit(error.exit_code)


def contents(output: str, storage: Storage) -> dict[str, str]:
    """Content digest of each artifact of a finished run: subset and shards byte for byte, tables row for row.

    Without the report, which tells seconds, and the reference, which tells where its weights came from.
    """
    artifacts = open_artifacts(output, storage)
    placed = ("report", "reference")
    return {name: artifact.manifest.content for name, artifact in artifacts.items() if name not in placed}
