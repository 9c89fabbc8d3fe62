from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages.formats.frames import open_frame
from tests.artifacts import commit


def table_of(numbers: range) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.uint64()), "half": [n / 2 for n in numbers]})


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    writer = ArtifactWriter(str(tmp_path), Storage())
    tables = [table_of(range(first, first + 10)) for first in (0, 10, 20)]
    files = [writer.put_table(f"bucket-{number:05d}.parquet", table) for number, table in enumerate(tables)]
    files.append(writer.put_table("other/x.parquet", pa.table({"z": [1]})))
    return commit(tmp_path, "scores/x", StageResult(tuple(files), {}))


def test_frame_holds_all_files_in_order(artifact: Artifact) -> None:
    frame = open_frame(artifact)
    assert isinstance(frame, pl.LazyFrame)
    assert frame.collect_schema() == {"n": pl.UInt64, "half": pl.Float64}
    assert frame.collect()["n"].to_list() == list(range(30))
    assert open_frame(artifact, "other/").collect().to_dicts() == [{"z": 1}]


def test_query_reads_wanted_columns_of_as_many_files_as_needed(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, list[str] | None]] = []
    original = Artifact.read_table

    def recording(self: Artifact, path: str, columns: list[str] | None = None) -> pa.Table:
        read.append((path, columns))
        return original(self, path, columns)

    frame = open_frame(artifact)
    monkeypatch.setattr(Artifact, "read_table", recording)
    assert frame.select("half").head(12).collect()["half"].to_list() == [n / 2 for n in range(12)]
    assert [path for path, _ in read] == ["bucket-00000.parquet", "bucket-00001.parquet"]
    assert all(columns == ["half"] for _, columns in read)


def test_filters_limits_and_groups_are_those_of_a_whole_frame(artifact: Artifact) -> None:
    lazy, whole = open_frame(artifact), open_frame(artifact).collect()
    for query in (
        lambda f: f.filter(pl.col("half") > 11.2).select("n"),
        lambda f: f.filter(pl.col("n") % 2 == 1).head(8),
        lambda f: f.head(25).filter(pl.col("n") > 20),
        lambda f: f.group_by(pl.col("n") % 3).agg(pl.col("half").sum()).sort("n"),
        lambda f: f.tail(3),
    ):
        assert query(lazy).collect().equals(query(whole.lazy()).collect())
