from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.rates import RatesConfig
from pipeline.stage import Size
from stages.selectors import table as table_module
from stages.selectors.table import TableConfig, TableSelector
from tests.stages.selectors.score_tables import by_number, run
from tests.stages.train.tiny_pool import make_pool, uid_of


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_pool(tmp_path_factory.mktemp("pool"), [8, 7])[0]


def hex_of(number: int) -> str:
    hi, lo = uid_of(number)
    return f"{hi:016x}{lo:016x}"


def rows(numbers: list[int], **columns: object) -> dict[str, object]:
    return {"uid": [hex_of(n) for n in numbers], "score": [n / 4 for n in numbers], **columns}


def selector(path: Path, **fields: object) -> TableSelector:
    return TableSelector(TableConfig(kind="table", path=str(path), **fields), name="mine", pool_path="")


def write(path: Path, columns: dict[str, object], group_rows: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group_rows)
    return path


def test_scores_of_a_folder_are_taken_by_uid(pool: Artifact, tmp_path: Path) -> None:
    write(tmp_path / "t" / "b.parquet", rows([14, 3, 9, 0, 1, 2], other=[0] * 6))
    write(tmp_path / "t" / "a.parquet", rows([7, 5]))
    scores = run(selector(tmp_path / "t"), tmp_path / "scores", pool)
    assert by_number(scores) == {n: n / 4 for n in (0, 1, 2, 3, 5, 7, 9, 14)}
    assert scores.summary["coverage"] == pytest.approx(8 / 15)
    assert scores.summary["batched"] is False


def test_rows_of_other_samples_are_left_out_and_counted(pool: Artifact, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", rows([1, 2, 100, 101, 102]))
    scores = run(selector(path), tmp_path / "scores", pool)
    assert by_number(scores) == {1: 0.25, 2: 0.5}
    assert scores.manifest.counts is not None
    assert (scores.manifest.counts.seen, scores.manifest.counts.out) == (5, 2)
    assert scores.manifest.counts.dropped == {"not in the pool": 3}


def test_uid_as_two_halves_and_other_names_and_integers(pool: Artifact, tmp_path: Path) -> None:
    hi, lo = (pa.array([uid_of(n)[half] for n in (4, 6)], pa.uint64()) for half in (0, 1))
    path = write(tmp_path / "t.parquet", {"h": hi, "l": lo, "quality": pa.array([7, -7], pa.int64())})
    scores = run(selector(path, uid=["h", "l"], score="quality"), tmp_path / "scores", pool)
    assert by_number(scores) == {4: 7.0, 6: -7.0}


def test_short_and_upper_case_uids_mean_the_same(pool: Artifact, tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.parquet", {"uid": [hex_of(9).upper(), hex_of(0).lstrip("0") or "0"], "score": [1.0, 2.0]}
    )
    assert by_number(run(selector(path), tmp_path / "scores", pool)) == {9: 1.0, 0: 2.0}


def test_bytes_do_not_depend_on_files_and_row_groups(pool: Artifact, tmp_path: Path) -> None:
    numbers = list(range(15))
    one = run(selector(write(tmp_path / "one.parquet", rows(numbers), 100)), tmp_path / "s1", pool)
    for number in reversed(numbers):
        write(tmp_path / "many" / f"{20 - number}.parquet", rows([number]), 1)
    many = run(selector(tmp_path / "many"), tmp_path / "s2", pool)
    assert one.manifest.content == many.manifest.content


BAD_VALUES = [
    ({"score": [0.0, 0.0, 0.0, 0.0, np.nan, 0.0]}, "row 4, column score", "nan"),
    ({"score": [0.0, 0.0, 0.0, 0.0, 0.0, np.inf]}, "row 5, column score", "inf"),
    ({"score": [0.0, 1e300, 0.0, 0.0, 0.0, 0.0]}, "row 1, column score", "1e+300"),
    ({"score": [0.0, None, 0.0, 0.0, 0.0, 0.0]}, "row 1, column score", "null"),
    ({"uid": ["0", "1", "2", "3", None, "5"]}, "row 4, column uid", "null"),
    ({"uid": ["0", "1", "2", "3", "4", "xyz"]}, "row 5, column uid", "'xyz'"),
    ({"uid": ["0", "", "2", "3", "4", "5"]}, "row 1, column uid", "''"),
]


@pytest.mark.parametrize(("columns", "where", "found"), BAD_VALUES)
@pytest.mark.parametrize("when", ["before work", "in work"])
def test_value_that_cannot_be_used_names_file_and_row(
    pool: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: dict, where: str, found: str, when: str
) -> None:
    if when == "in work":  # as for a table too large to read twice
        monkeypatch.setattr(table_module, "_CHECKED_EARLY", 0)
    path = write(tmp_path / "t.parquet", {**rows(list(range(6))), **columns})
    with pytest.raises(UserError) as error:
        run(selector(path), tmp_path / "scores", pool)
    assert f"t.parquet, {where}" in str(error.value)
    assert f"found: {found}" in str(error.value)
    if when == "before work":
        assert not (tmp_path / "scores").exists()


def test_uid_that_stands_twice_names_both_rows(pool: Artifact, tmp_path: Path) -> None:
    write(tmp_path / "t" / "a.parquet", rows([0, 1, 2, 3, 4, 5]))
    write(tmp_path / "t" / "b.parquet", rows([7, 5]))
    with pytest.raises(UserError, match="uid twice") as error:
        run(selector(tmp_path / "t"), tmp_path / "scores", pool)
    assert "b.parquet, row 1" in str(error.value)
    assert f"uid {hex_of(5)}" in str(error.value)
    assert "a.parquet, row 5" in str(error.value)


@pytest.mark.parametrize(
    ("columns", "fields", "message"),
    [
        ({"uid": ["0"], "value": [1.0]}, {}, "column(s) score"),
        ({"uid": ["0"], "value": [1.0]}, {"score": "value", "uid": ["h", "l"]}, "column(s) h, l"),
        ({"uid": [1], "score": [1.0]}, {}, "column uid"),
        ({"uid": ["0"], "score": ["high"]}, {}, "column score"),
        ({"h": [1], "l": [1], "score": [1.0]}, {"uid": ["h", "l"]}, "column h"),
    ],
)
def test_columns_that_do_not_fit_are_refused_before_work(
    pool: Artifact, tmp_path: Path, columns: dict, fields: dict, message: str
) -> None:
    path = write(tmp_path / "t.parquet", columns)
    with pytest.raises(UserError) as error:
        run(selector(path, **fields), tmp_path / "scores", pool)
    assert message in str(error.value)
    assert "t.parquet" in str(error.value)
    assert not (tmp_path / "scores").exists()


def test_file_that_is_no_parquet_is_refused(pool: Artifact, tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("uid,score\n")
    with pytest.raises(UserError, match="not a Parquet file"):
        run(selector(tmp_path / "t.parquet"), tmp_path / "scores", pool)


def test_table_of_another_pool_is_refused(pool: Artifact, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", rows([100, 101]))
    with pytest.raises(UserError, match="no score of any sample of the pool"):
        run(selector(path), tmp_path / "scores", pool)


def test_table_without_rows_is_refused(pool: Artifact, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"uid": pa.array([], pa.string()), "score": pa.array([], pa.float32())})
    with pytest.raises(UserError, match="no rows"):
        run(selector(path), tmp_path / "scores", pool)


def test_config_wants_one_or_two_uid_columns() -> None:
    for uid in ([], ["a", "a"], ["a", "b", "c"]):
        with pytest.raises(ValidationError, match="one column of text"):
            TableConfig(kind="table", path="x", uid=uid)
    assert TableConfig(kind="table", path="x").roles() == ("pool",)
    plan = selector(Path("x")).plan({"pool": Size(10, 1)}, RatesConfig().model_dump())
    assert plan.output.rows == 10
