"""Broken samples: which, where, why, and when there are too many of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from pipeline.errors import UserError

QUARANTINE = pa.schema(
    {
        "shard": pa.uint32(),
        "offset": pa.uint64(),
        "member": pa.string(),
        "uid": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
    }
)
"""quarantine.parquet, by (shard, offset); uid is null where it could not be read."""

_MAX_TEXT = 300
_NUM_WORST = 5


class LostShard(NamedTuple):
    """A shard that could not be read and gave no usable sample."""

    path: str
    bytes: int
    fault: str


class Broken(NamedTuple):
    """One sample that cannot be used."""

    shard: int
    offset: int
    """Of its first header in the shard."""
    member: str
    uid: str | None
    reason: str
    detail: str


def quarantine_table(rows: Sequence[Broken]) -> pa.Table:
    """Broken samples as a table; texts from the input are cut to a readable length."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(QUARANTINE)
    texts = {"member", "detail"}
    arrays = [
        pa.array([_readable(value) for value in column] if field.name in texts else column, field.type)
        for field, column in zip(QUARANTINE, columns, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=QUARANTINE)


class ShardTally(NamedTuple):
    """How one shard fared."""

    path: str
    seen: int
    reasons: Mapping[str, int]


def check_share(tallies: Sequence[ShardTally], max_share: float, where: str) -> None:
    """Stop where too much is broken.

    Raises:
        UserError: there is no sample at all, or more than `max_share` of them are broken.
    """
    seen = sum(tally.seen for tally in tallies)
    reasons: Counter[str] = Counter()
    for tally in tallies:
        reasons.update(tally.reasons)
    broken = reasons.total()
    if seen == 0:
        raise UserError(
            "the pool has no samples",
            where=where,
            expected="tar shards with members like 000000000.jpg, .txt, .json",
            found=f"{len(tallies)} shards without any",
        )
    if broken > max_share * seen:
        raise UserError(
            "no sample of the pool can be used" if broken == seen else "too many broken samples in the pool",
            where=where,
            expected=f"at most {max_share:.2%} (pool.max_quarantined)",
            found=f"{broken:,} of {seen:,} = {broken / seen:.2%}: {_shown(reasons)}\n" + _worst(tallies),
            next_step="repair or remove these shards, or raise pool.max_quarantined",
        )


def check_unreadable(
    lost: Sequence[LostShard], *, num_shards: int, num_bytes: int, max_share: float, where: str
) -> None:
    """Stop where whole shards gave nothing.

    How many samples were in them nobody knows, so their share of the pool's bytes or of its shards counts, the larger.

    Raises:
        UserError: they are more than `max_share` of the pool.
    """
    share = max(sum(shard.bytes for shard in lost) / max(num_bytes, 1), len(lost) / max(num_shards, 1))
    if share > max_share:
        named = [f"    {shard.path}: {shard.bytes:,} bytes, {shard.fault}" for shard in lost[:_NUM_WORST]]
        raise UserError(
            "too many shards of the pool cannot be read",
            where=where,
            expected=f"at most {max_share:.2%} of the pool (pool.max_quarantined)",
            found=f"{len(lost):,} of {num_shards:,} shard(s) without a usable sample, {share:.2%} of the pool:\n"
            + "\n".join(named),
            next_step="repair or remove these shards, or raise pool.max_quarantined",
        )


def _worst(tallies: Sequence[ShardTally]) -> str:
    faulty = [tally for tally in tallies if tally.reasons]
    worst = sorted(faulty, key=lambda tally: (-sum(tally.reasons.values()), tally.path))[:_NUM_WORST]
    lines = [
        f"    {tally.path}: {sum(tally.reasons.values())} of {tally.seen}: {_shown(tally.reasons)}" for tally in worst
    ]
    return "\n".join(["  worst shards:", *lines])


def _shown(reasons: Mapping[str, int]) -> str:
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {reason}" for reason, count in ordered)


def _readable(text: object) -> str:
    return str(text).encode("utf-8", "replace").decode()[:_MAX_TEXT]
