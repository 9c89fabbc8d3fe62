"""Where the pool lies and how strictly it is read."""

from typing import Literal

from pydantic import Field

from pipeline.config_base import Config, placement


class PoolConfig(Config):
    """The image-text pool to curate: tar shards, and metadata keyed by uid."""

    path: str = placement()
    """Folder or s3:// prefix with .tar shards, flat or nested."""
    metadata: str | None = placement(None)
    """Folder or s3:// prefix with .parquet files that have a `uid` column, as DataComp's; none by default."""
    expected_samples: int | None = placement(None, gt=0)
    """Size of the pool, for `--plan` before there is data; a pool that differs by more than 1 % is warned of."""
    max_quarantined: float = Field(0.01, ge=0, le=1)
    """Share of the samples that may be broken; above it the run stops."""
    check: Literal["headers", "decode"] = "decode"
    """`decode` reads every byte of every image; `headers` trusts those whose file begins and ends as it should."""
    sample: float = Field(1.0, gt=0, le=1)
    """Share of the shards to use, drawn by the seed from their paths (at least one): a trial of any config.

    Metadata rows without a sample are not counted as missing then, as their shard may just not have been drawn.
    """
    bucket_rows: int = Field(2_000_000, gt=0)
    """Rows that a uid bucket should have at most: bounds the memory of every later task.

    Where metadata is long, a bucket has fewer: at most 1 GiB of it as stored.
    """
