"""Files beside resharded tars, as DataComp's tools and open_clip look for them."""

from collections.abc import Mapping, Sequence

SHARD_FORMAT = "{:08d}.tar"
STATS_FORMAT = "{:08d}_stats.json"
SIZES_NAME = "sizes.json"
META_NAME = "meta.json"


def shard_name(number: int) -> str:
    """Name of an output shard."""
    return SHARD_FORMAT.format(number)


def stats_name(number: int) -> str:
    """Name of an output shard's count."""
    return STATS_FORMAT.format(number)


def stats(num_samples: int) -> dict[str, int]:
    """Content of a shard's `_stats.json`: DataComp's resharder reads `successes`."""
    return {"successes": num_samples}


def sizes(num_samples: Sequence[int]) -> dict[str, int]:
    """Content of `sizes.json`: samples by base name; open_clip's loader takes the epoch's length from it."""
    return {shard_name(number): count for number, count in enumerate(num_samples)}


def meta(num_samples: Sequence[int], *, shard_size: int, num_processed: int) -> Mapping[str, str | int]:
    """Content of `meta.json`: DataComp's training finds shards by `output_shard_format` and `output_shard_count`.

    Arguments stand there as strings and results as numbers, as its resharder leaves them; nothing of this place.
    """
    return {
        "shard_size": str(shard_size),
        "first_shard": "0",
        "shard_format": SHARD_FORMAT,
        "output_shard_format": SHARD_FORMAT,
        "shard_stats_format": STATS_FORMAT,
        "output_shard_stats_format": STATS_FORMAT,
        "shard_table": SIZES_NAME,
        "processed_count": num_processed,
        "output_count": sum(num_samples),
        "output_shard_count": len(num_samples),
    }
