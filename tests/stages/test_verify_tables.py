"""Tables that speak of other samples than the pool's, or of the same one twice, are found by their rows alone."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.artifact import Artifact, ArtifactWriter, Counts, FileEntry
from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages import verify_tables
from tests.artifacts import commit
from tests.stages.uid_tables import random_uids

N = 40
HI, LO = random_uids(N, seed=3)
PLACES = pa.table(
    {
        "uid_hi": HI,
        "uid_lo": LO,
        "shard": pa.array(np.arange(N) % 4, pa.uint32()),
        "offset": pa.array(np.arange(N) * 512, pa.uint64()),
        "length": pa.array(np.full(N, 512), pa.uint64()),
    }
)
IN_UPPER_HALF = HI >> np.uint64(63) == 1
UIDS = PLACES.select(["uid_hi", "uid_lo"])
SCORES = UIDS.append_column("visit", pa.array(np.zeros(N), pa.uint16())).append_column(
    "score", pa.array(np.linspace(-1, 1, N), pa.float32())
)


def _artifact(root: Path, name: str, tables: Mapping[str, pa.Table], **summary: object) -> Artifact:
    writer = ArtifactWriter(str(root / name), Storage())
    files = tuple(writer.put_table(path, table) for path, table in tables.items())
    out = sum(file.rows for file in files if file.path.startswith("bucket-"))
    return commit(root / name, name, StageResult(files, summary, Counts(out, out)))


def _halves(table: pa.Table, folder: str = "") -> dict[str, pa.Table]:
    """Two buckets by the first bit of the uid."""
    upper = np.isin(table["uid_hi"].to_numpy(), HI[IN_UPPER_HALF])
    return {
        f"{folder}bucket-00000.parquet": table.filter(pa.array(~upper)),
        f"{folder}bucket-00001.parquet": table.filter(pa.array(upper)),
    }


def _pool(root: Path, index: pa.Table = PLACES, order: pa.Table = PLACES) -> Artifact:
    by_place = order.sort_by([("shard", "ascending"), ("offset", "ascending")])
    tables = {**_halves(index, "index/"), "order/part-00000.parquet": by_place}
    return _artifact(root, "pool", tables, bucket_bits=1)


def _swapped(table: pa.Table, one: int, other: int) -> pa.Table:
    rows = np.arange(table.num_rows)
    rows[[one, other]] = [other, one]
    return table.take(pa.array(rows))


def _with(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    return table.set_column(place, column, pa.array(values, table.schema.field(column).type))


def test_index_and_order_of_the_same_samples_agree(tmp_path: Path) -> None:
    assert list(verify_tables.index(_pool(tmp_path))) == []


@pytest.mark.parametrize(
    ("index", "order", "what"),
    [
        (_swapped(PLACES, 2, 3), PLACES, "not distinct and in order"),
        (_with(_with(PLACES, "uid_hi", 3, int(HI[2])), "uid_lo", 3, int(LO[2])), PLACES, "not distinct and in order"),
        (PLACES, _with(PLACES, "offset", 7, 1), "do not speak of the same places"),
        (PLACES, _with(_with(PLACES, "shard", 0, 1), "shard", 1, 0), "do not speak of the same places"),
        (PLACES, PLACES.slice(1), "do not speak of the same places"),
        (PLACES, pa.concat_tables([PLACES.slice(1), PLACES.slice(1, 1)]), "do not speak of the same places"),
    ],
    ids=["unsorted", "twice", "other offset", "shards exchanged", "one lost", "one for another"],
)
def test_index_that_is_out_of_order_or_differs_from_the_order_is_found(
    tmp_path: Path, index: pa.Table, order: pa.Table, what: str
) -> None:
    found = [difference[1] for difference in verify_tables.index(_pool(tmp_path, index, order))]
    assert any(what in difference for difference in found), found


def test_index_in_the_wrong_bucket_is_found(tmp_path: Path) -> None:
    halves = list(_halves(PLACES).values())
    tables = {"index/bucket-00000.parquet": halves[1], "index/bucket-00001.parquet": halves[0]}
    pool = _artifact(tmp_path, "pool", {**tables, "order/part-00000.parquet": PLACES}, bucket_bits=1)
    assert [what for _, what, _ in verify_tables.index(pool)] == ["a uid is in the bucket of another prefix"] * 2


def test_votes_of_every_sample_agree(tmp_path: Path) -> None:
    votes = _artifact(tmp_path, "votes", _halves(UIDS))
    assert list(verify_tables.whole_pool("votes", votes, _pool(tmp_path))) == []


@pytest.mark.parametrize(
    "table",
    [UIDS.slice(1), pa.concat_tables([UIDS, UIDS.slice(0, 1)]), _swapped(UIDS, 4, 5), _with(UIDS, "uid_lo", 9, 1)],
    ids=["one lost", "one twice", "out of order", "another"],
)
def test_votes_of_other_samples_are_found(tmp_path: Path, table: pa.Table) -> None:
    votes = _artifact(tmp_path, "votes", _halves(table))
    ((name, what, where),) = verify_tables.whole_pool("votes", votes, _pool(tmp_path))
    assert name == "votes"
    assert "not those of the pool" in what
    assert where.startswith(votes.uri("bucket-"))


def test_scores_of_some_samples_some_of_them_twice_agree(tmp_path: Path) -> None:
    again = _with(SCORES.slice(2, 1), "visit", 0, 1)
    table = pa.concat_tables([SCORES.slice(0, 3), again, SCORES.slice(5)])
    scores = _artifact(tmp_path, "scores/mimic", _halves(table), scored=N - 2)
    assert list(verify_tables.scores("scores/mimic", scores, _pool(tmp_path))) == []


@pytest.mark.parametrize(
    ("table", "what"),
    [
        (_swapped(SCORES, 0, 1), "not in the order of uids"),
        (pa.concat_tables([SCORES.slice(0, 1), SCORES]), "two scores for one visit"),
        (_with(SCORES, "uid_lo", 3, 12345), "of samples that the pool does not have"),
        (_with(SCORES, "score", 3, float("nan")), "not a finite number"),
        (_with(SCORES, "score", 3, float("inf")), "not a finite number"),
        (SCORES.slice(1), f"counts {N} scored samples, the table {N - 1}"),
    ],
    ids=["unsorted", "twice", "strange", "nan", "infinite", "fewer"],
)
def test_scores_that_cannot_be_are_found(tmp_path: Path, table: pa.Table, what: str) -> None:
    scores = _artifact(tmp_path, "scores/mimic", _halves(table), scored=N)
    found = [difference[1] for difference in verify_tables.scores("scores/mimic", scores, _pool(tmp_path))]
    assert any(what in difference for difference in found), found


def test_rows_that_the_manifest_lists_are_there(tmp_path: Path) -> None:
    votes = _artifact(tmp_path, "votes", _halves(UIDS))
    assert list(verify_tables.rows("votes", votes)) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda manifest: replace(manifest, counts=Counts(N + 1, N + 1)), f"counted {N + 1} out, and has {N} rows"),
        (lambda manifest: replace(manifest, files=_more_rows(manifest.files)), "its manifest lists"),
    ],
    ids=["counted", "listed"],
)
def test_other_number_of_rows_than_stated_is_found(
    tmp_path: Path, change: Callable[[object], object], what: str
) -> None:
    votes = _artifact(tmp_path, "votes", _halves(UIDS))
    forged = replace(votes, manifest=change(votes.manifest))  # type: ignore[arg-type]
    found = [difference[1] for difference in verify_tables.rows("votes", forged)]
    assert any(what in difference for difference in found), found


def _more_rows(files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
    return (replace(files[0], rows=files[0].rows + 1), *files[1:])
