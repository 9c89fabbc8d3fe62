"""How the kept samples are written."""

from typing import Literal

from pydantic import Field

from pipeline.config_base import Config


class ReshardConfig(Config):
    """The kept samples as new shards; `reshard: off` in place of this block leaves only the subset file."""

    shard_size: int = Field(10_000, gt=0)
    """Samples a shard at most; all shards hold as many, or one fewer."""
    format: Literal["webdataset"] = "webdataset"
    """Tar shards with each sample's own members, as DataComp and open_clip read them."""
