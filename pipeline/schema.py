"""Typed schemas of uid-keyed tables; a graph is checked by them before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.errors import RunError

UID: Mapping[str, pa.DataType] = {"uid_hi": pa.uint64(), "uid_lo": pa.uint64()}
"""128-bit uid as two unsigned halves: `int(hex[:16], 16), int(hex[16:], 16)`."""


@dataclass(frozen=True)
class Schema:
    """Columns that a table has at least; further ones are allowed where `open`."""

    columns: Mapping[str, pa.DataType] = field(default_factory=dict)
    open: bool = False

    def missing_from(self, other: "Schema") -> list[str]:
        """Columns that this schema needs and `other` does not give, as `name: type`."""
        return [
            f"{name}: {kind}"
            for name, kind in self.columns.items()
            if other.columns.get(name) != kind and not (other.open and name not in other.columns)
        ]

    def check(self, table: pa.Table, where: str) -> None:
        """Raise RunError unless `table` has these columns, in these types."""
        wrong = self.missing_from(Schema(dict(zip(table.schema.names, table.schema.types, strict=True))))
        if wrong:
            raise RunError("table has another schema than declared", where=where, expected=wrong, found=table.schema)


POOL = Schema(
    {
        **UID,
        "shard": pa.uint32(),
        "offset": pa.uint64(),
        "length": pa.uint64(),
        "key": pa.string(),
        "image_ext": pa.string(),
        "text_len": pa.uint32(),
        "words": pa.uint32(),
        "width": pa.uint32(),
        "height": pa.uint32(),
        "bytes": pa.uint64(),
    },
    open=True,
)
"""index/bucket-*.parquet: one row a usable sample; metadata columns behind these, in their stored type."""

ORDER = Schema({**UID, "shard": pa.uint32(), "offset": pa.uint64(), "length": pa.uint64()})
"""order/part-*.parquet: the same samples by (shard, offset), for sequential readers."""

SCORES = Schema({**UID, "visit": pa.uint16(), "step": pa.int32(), "score": pa.float32()}, open=True)
"""scores/<selector>: raw score a visit; training selectors add weight and loss (float32)."""

VOTES = Schema({**UID}, open=True)
"""votes: one int8 column `<selector>__<visit>` a voter: 1 keep, 0 drop, -1 abstain."""

DECISIONS = Schema({**UID, "p_keep": pa.float32(), "pattern": pa.uint64()}, open=True)
"""decisions: posterior, vote pattern and `score__<selector>` (mean within-batch-scaled score, float32)."""

SUBSET = Schema()
SHARDS = Schema()
MODEL = Schema()
DOCUMENTS = Schema()
