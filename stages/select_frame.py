"""One bucket of everything that a rule may name, joined by uid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.errors import RunError, UserError
from pipeline.storage import join
from stages.kernels.buckets import bucket_path
from stages.kernels.patterns import ALL_ABSTAIN
from stages.kernels.radix import Column, Keys, ascending, order_key
from stages.kernels.uid import hash_u64
from stages.select_config import DECISION, RANDOM, Path

FILTERS = "filters"
"""Folder of the tables that say which samples pass the `basic` clauses."""
_UID = ("uid_hi", "uid_lo")


def filter_column(path: Path) -> str:
    """Column of the clause at a place of the rule."""
    return "basic" + "".join(f"_{number}" for number in path)


@dataclass(frozen=True)
class Sources:
    """The tables behind a rule, and which of their columns it needs."""

    pool: Artifact
    decisions: Artifact
    names: tuple[str, ...]
    """What is ranked or compared by."""
    clip_scores: tuple[str, ...]
    """Metadata columns of `clip_score` clauses."""
    seed: int
    """Of random ranks."""
    output: ArtifactWriter | None = None
    """Where the `basic` clauses' results lie, if there are any."""

    @property
    def selectors(self) -> dict[str, str]:
        """Selector -> its column in the decisions."""
        return {name: f"score__{name}" for name in self.decisions.summary["scales"]}

    def index_columns(self) -> list[str]:
        """Columns of the pool's index that are needed."""
        own = [name for name in self.names if name not in (DECISION, RANDOM) and name not in self.selectors]
        return sorted({*own, *self.clip_scores})

    def decision_columns(self) -> list[str]:
        """Columns of the decisions that are needed."""
        columns = [column for name, column in self.selectors.items() if name in self.names]
        return [*columns, DECISION, "mean_score", "pattern"] if DECISION in self.names else columns

    def check(self, further: Sequence[str]) -> None:
        """Refuse names that nothing has.

        Args:
            further: metadata columns that filters need.

        Raises:
            UserError: a name is neither a selector nor a column.
        """
        known = {*self.pool.summary["metadata_columns"], "text_len", "words", "width", "height", "bytes"}
        unknown = [name for name in [*self.index_columns(), *further] if name not in known]
        if unknown:
            raise UserError(
                f"the rule names what is neither a selector nor a column: {', '.join(unknown)}",
                where="select.rule",
                expected=f"a selector ({', '.join(sorted(self.selectors))}) or a column ({', '.join(sorted(known))})",
                next_step="add a selector of that name, or metadata that has the column",
            )


@dataclass(frozen=True)
class Values:
    """A value for each row of a bucket, where there is one."""

    keys: tuple[Column, ...]
    """Ranking columns, the better the larger; meaningless where no value is present."""
    raw: NDArray[np.generic]
    present: NDArray[np.bool_]
    is_score: bool = False
    """Whether it comes from a score table, where absent means unscored; absent metadata is simply not there."""

    @property
    def numbers(self) -> NDArray[np.float64]:
        """The values themselves."""
        return self.raw.astype(np.float64)


class Frame:
    """The rows of one bucket of the pool, in uid order, with what the rule needs of them.

    Without its uid a row's place, which orders as uids do, is enough to part ties: a cut needs no more.
    """

    def __init__(self, sources: Sources, bucket: int, *, with_uids: bool = False) -> None:
        """Read the needed columns of the pool's index and of the decisions.

        Args:
            sources: where they lie.
            bucket: which rows.
            with_uids: read uids too, and compare those of index and decisions.

        Raises:
            RunError: the decisions are of other samples.
        """
        self._sources = sources
        self._bucket = bucket
        path = bucket_path(bucket, "index")
        self._num_rows = sources.pool.entry(path).rows
        uids = list(_UID) if with_uids or RANDOM in sources.names else []
        columns = uids + sources.index_columns()
        self.table = _polars(sources.pool.read_table(path, columns)) if columns else pl.DataFrame()
        self._decisions = pl.DataFrame()
        if columns := sources.decision_columns():
            self._decisions = _polars(sources.decisions.read_table(bucket_path(bucket), uids + columns))
        if self._decisions.width and not self._is_aligned(uids):
            raise RunError(
                "decisions and pool do not list the same samples",
                where=sources.decisions.uri(bucket_path(bucket)),
                expected=f"the {self._num_rows} uids of the pool's index",
                found=f"{self._decisions.height} uids, not the same ones",
            )

    def __len__(self) -> int:
        return self._num_rows

    @property
    def uids(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """High and low half of each uid, if they were read: [n] each."""
        high, low = (self.table[name].to_numpy() for name in _UID)
        return high, low

    @property
    def place(self) -> NDArray[np.uint64]:
        """[n] of each row among all of the pool's: the smaller, the smaller its uid."""
        return np.arange(self._num_rows, dtype=np.uint64) | np.uint64(self._bucket << 32)

    def values(self, name: str) -> Values:
        """Values by their name in the rule."""
        if name == RANDOM:
            drawn = hash_u64(*self.uids, self._sources.seed)
            return Values((drawn,), drawn, np.ones(len(self), bool))
        if name == DECISION:
            return self._decision()
        if name in self._sources.selectors:
            return replace(column_values(self._decisions[self._sources.selectors[name]]), is_score=True)
        return column_values(self.table[name])

    def passed(self, path: Path) -> NDArray[np.bool_]:
        """Which samples pass the `basic` clause at a place of the rule: [n]."""
        output = self._sources.output
        assert output is not None
        uri = join(output.root, bucket_path(self._bucket, FILTERS))
        return np.asarray(output.storage.read_table(uri, [filter_column(path)])[0].to_numpy())

    def keys(self, values: Values, direction: str) -> Keys:
        """Ranking keys: the value, best or worst first, then the smaller uid, as its place has it."""
        columns = values.keys if direction == "top" else tuple(ascending(column) for column in values.keys)
        return Keys((*columns, ascending(self.place)))

    def _decision(self) -> Values:
        """Ties between posteriors are many: the mean score parts them."""
        posterior = column_values(self._decisions[DECISION])
        mean = column_values(self._decisions["mean_score"])
        if self._sources.decisions.summary["method"] == "mean_score":
            decided = mean.present
        else:
            decided = self._decisions["pattern"].to_numpy() != ALL_ABSTAIN
        tie = np.where(mean.present, mean.keys[0], np.uint32(0))
        return Values((*posterior.keys, tie), posterior.raw, decided, is_score=True)

    def _is_aligned(self, uids: Sequence[str]) -> bool:
        same = (self.table[name].equals(self._decisions[name]) for name in uids)
        return self._decisions.height == self._num_rows and all(same)


def column_values(column: pl.Series) -> Values:
    """Values of a numeric column; null and NaN are absent.

    Raises:
        UserError: the column does not hold numbers.
    """
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise UserError(
            f"column {column.name!r} cannot be ranked", where="select.rule", expected="numbers", found=column.dtype
        )
    numeric = column.cast(pl.UInt8) if column.dtype == pl.Boolean else column
    present = numeric.is_not_null().to_numpy()
    raw = (numeric.fill_null(0) if numeric.null_count() else numeric).to_numpy()
    if raw.dtype == np.float16:
        raw = raw.astype(np.float32)
    if raw.dtype.kind == "f" and (unknown := np.isnan(raw)).any():
        present = present & ~unknown
        raw = np.where(unknown, raw.dtype.type(0), raw)
    return Values((order_key(raw),), raw, present)


def read_missing(pool: Artifact, bucket: int, columns: Sequence[str]) -> pl.DataFrame:
    """Metadata rows of a bucket that have no sample in the pool."""
    path = bucket_path(bucket, "missing")
    return _polars(pool.read_table(path, list(columns)))


def _polars(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
