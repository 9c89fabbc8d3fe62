"""What work costs, as far as `--plan` knows: measured rates and prices, each of them a field to override."""

from pipeline.config_base import Config, placement


class RatesConfig(Config):
    """Constants of the cost model; units are in the names."""

    train_samples_per_second_per_gpu: float = placement(890.0, gt=0)
    """Of the configured model; the default is ViT-B-32 on one A100 as DataComp reports it (128M samples in 40 GPU
    hours). Larger models need their own number."""
    score_samples_per_second_per_gpu: float = placement(2700.0, gt=0)
    """Forward passes only: a third of the work of training."""
    score_samples_per_second_per_cpu: float = placement(20.0, gt=0)
    """Forward passes of ViT-B-32 on one core: an estimate, not a measurement."""
    index_bytes_per_second_per_cpu: float = placement(150e6, gt=0)
    """Reading and checking tars."""
    decodes_per_second_per_cpu: float = placement(1400.0, gt=0)
    """Full decodes of a 512-pixel JPEG (`pool.check: decode`)."""
    rows_per_second_per_cpu: float = placement(10e6, gt=0)
    """Vectorised passes over uid-keyed tables."""
    copy_bytes_per_second_per_cpu: float = placement(200e6, gt=0)
    """Resharding."""
    bytes_per_sample: float = placement(35e3, gt=0)
    """Of a pool that cannot be listed yet; DataComp's medium pool has 4.5 TB for 128M pairs."""
    usd_per_gpu_hour: float = placement(2.5, ge=0)
    """Price of one GPU for an hour."""
    usd_per_cpu_hour: float = placement(0.05, ge=0)
    """Price of one CPU core for an hour."""
