"""What work costs, as far as `--plan` knows: rates, and prices from `pipeline/prices.csv`; each a field to override.

Rates of cores are those that `python -m benchmarks.record_rates` measured (`benchmarks/results/rates.json`), to two
digits: rows, samples or bytes for a second of one core, over all passes of a stage. What is an estimate says so.
"""

from pipeline.config_base import Config, placement
from pipeline.prices import prices

_PRICES = prices()


class RatesConfig(Config):
    """Constants of the cost model; units are in the names."""

    train_samples_per_second_per_gpu: float = placement(890.0, gt=0)
    """Of the configured model; the default is ViT-B-32 on one A100 as DataComp reports it (128M samples in 40 GPU
    hours). Larger models need their own number."""
    score_samples_per_second_per_gpu: float = placement(2700.0, gt=0)
    """Forward passes only: a third of the work of training."""
    score_samples_per_second_per_cpu: float = placement(20.0, gt=0)
    """Forward passes of ViT-B-32 on one core: an estimate, not a measurement."""
    index_bytes_per_second_per_cpu: float = placement(340e6, gt=0)
    """Reading and checking tars."""
    decodes_per_second_per_cpu: float = placement(970.0, gt=0)
    """Full decodes of a 512-pixel JPEG (`pool.check: decode`)."""
    index_rows_per_second_per_cpu: float = placement(1e6, gt=0)
    """Metadata read, joined and indexed: an estimate."""
    column_rows_per_second_per_cpu: float = placement(3.4e6, gt=0)
    """A score table from a metadata column."""
    table_rows_per_second_per_cpu: float = placement(1e6, gt=0)
    """A score table from somebody's Parquet: an estimate."""
    gather_rows_per_second_per_cpu: float = placement(520e3, gt=0)
    """Scored samples of a training's ledger to a score table."""
    binarize_rows_per_second_per_cpu: float = placement(3.4e6, gt=0)
    """Scores to votes, by top fraction."""
    aggregate_rows_per_second_per_cpu: float = placement(3.7e6, gt=0)
    """Votes and scores to decisions."""
    select_rows_per_second_per_cpu: float = placement(2.1e6, gt=0)
    """Samples of the pool through a rule with two cuts."""
    find_rows_per_second_per_cpu: float = placement(1e6, gt=0)
    """Samples of the pool looked up in the subset: an estimate."""
    copy_bytes_per_second_per_cpu: float = placement(380e6, gt=0)
    """Resharding: bytes written."""
    report_rows_per_second_per_cpu: float = placement(1e6, gt=0)
    """Samples and scores counted for the report: an estimate."""
    seconds_per_request: float = placement(0.02, ge=0)
    """What a task waits for one answer of the store: usual for S3 within a region, not measured here."""
    seconds_per_task: float = placement(0.02, ge=0)
    """What Ray adds to a task, in seconds of one core: an estimate."""
    bytes_per_sample: float = placement(35e3, gt=0)
    """Of a pool that cannot be listed yet; DataComp's medium pool has 4.5 TB for 128M pairs."""
    metadata_bytes_per_sample: float = placement(235.0, gt=0)
    """Of such a pool's metadata in Parquet; DataComp's medium pool has 30 GB."""
    samples_per_shard: float = placement(10e3, gt=0)
    """As img2dataset writes them by default."""
    usd_per_gpu_hour: float = placement(_PRICES["usd_per_gpu_hour"], ge=0)
    """Price of one GPU for an hour."""
    usd_per_cpu_hour: float = placement(_PRICES["usd_per_cpu_hour"], ge=0)
    """Price of one CPU core for an hour."""
    usd_per_million_gets: float = placement(_PRICES["usd_per_million_gets"], ge=0)
    """Price of reads from the object store."""
    usd_per_million_puts: float = placement(_PRICES["usd_per_million_puts"], ge=0)
    """Price of writes to the object store and of listings."""
    usd_per_tb_month: float = placement(_PRICES["usd_per_tb_month"], ge=0)
    """Price of keeping a terabyte for a month."""
