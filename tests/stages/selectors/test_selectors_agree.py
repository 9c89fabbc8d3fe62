"""What holds for every selector: rules of scores, counts that add up, bytes that do not depend on buckets or names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import Stage
from stages.kernels.basic_config import FastTextModel
from stages.selectors.basic import BasicConfig, BasicSelector
from stages.selectors.clip_score import ClipScoreConfig, ClipScoreSelector
from stages.selectors.table import TableConfig, TableSelector
from tests.stages.selectors.score_tables import by_number, frame_of, run
from tests.stages.selectors.test_basic import plain_rule
from tests.stages.train.tiny_pool import make_pool, uid_of

NUMBERS = 23
CLIP = [None if n % 7 == 3 else (n * 37 % 23) / 23 - 0.2 for n in range(NUMBERS)]
METADATA = pa.table(
    {
        "clip": pa.array(CLIP, pa.float64()),
        "text": [None if n == 4 else "a dog on grass" if n % 2 else "dog" for n in range(NUMBERS)],
        "original_width": pa.array([100 * (n % 6 + 1) for n in range(NUMBERS)], pa.int32()),
        "original_height": pa.array([300] * NUMBERS, pa.int32()),
    }
)


def table_file(root: Path) -> Path:
    path = root / "scores.parquet"
    uids = [uid_of(n) for n in range(0, NUMBERS + 5, 2)]
    columns = {"uid": [f"{hi:016x}{lo:016x}" for hi, lo in uids], "score": [float(lo) for _, lo in uids]}
    pq.write_table(pa.table(columns), path)
    return path


def column_selector(_: Path) -> Stage[Any]:
    return ClipScoreSelector(ClipScoreConfig(kind="clip_score", column="clip"), name="x", pool_path="")


def basic_selector(_: Path) -> Stage[Any]:
    return BasicSelector(BasicConfig(kind="basic", language="any"), name="x", pool_path="")


def table_selector(root: Path) -> Stage[Any]:
    return TableSelector(TableConfig(kind="table", path=str(table_file(root))), name="x", pool_path="")


KINDS = [column_selector, basic_selector, table_selector]
Kind = Callable[[Path], Stage[Any]]


def pool_of(root: Path, bits: int) -> Artifact:
    return make_pool(root, [9, 0, 14], bits=bits, metadata=METADATA)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_do_not_depend_on_the_number_of_buckets(kind: Kind, tmp_path: Path) -> None:
    frames = []
    for bits in (1, 2, 4):
        root = tmp_path / str(bits)
        scores = run(kind(tmp_path), root / "scores", pool_of(root, bits))
        frames.append(frame_of(scores))
        assert scores.summary["bucket_bits"] == bits
    assert frames[0].equals(frames[1])
    assert frames[0].equals(frames[2])
    assert frames[0].equals(frames[0].sort("uid_hi", "uid_lo")), "buckets follow each other in the order of uids"


@pytest.mark.parametrize("kind", KINDS)
def test_counts_and_summary_add_up(kind: Kind, tmp_path: Path) -> None:
    scores = run(kind(tmp_path), tmp_path / "scores", pool_of(tmp_path, 2))
    counts, summary = scores.manifest.counts, scores.summary
    assert counts is not None
    assert counts.seen == counts.out + sum(counts.dropped.values())
    assert summary["rows"] == summary["scored"] == counts.out == frame_of(scores).height
    assert summary["coverage"] == pytest.approx(summary["scored"] / NUMBERS)
    assert (summary["visits"], summary["batched"]) == (1, False)
    assert [file.rows for file in scores.files()] == [table.num_rows for table in scores.tables("bucket-")]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_finite_float32_of_samples_of_the_pool_once(kind: Kind, tmp_path: Path) -> None:
    frame = frame_of(run(kind(tmp_path), tmp_path / "scores", pool_of(tmp_path, 2)))
    assert frame["score"].dtype == pl.Float32
    assert bool(frame["score"].is_finite().all())
    uids = list(zip(frame["uid_hi"].to_list(), frame["uid_lo"].to_list(), strict=True))
    assert len(set(uids)) == len(uids)
    assert set(uids) <= {uid_of(n) for n in range(NUMBERS)}


@pytest.mark.parametrize("kind", KINDS)
def test_second_run_gives_the_same_bytes(kind: Kind, tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 2)
    contents = [run(kind(tmp_path), tmp_path / name, pool).manifest.content for name in "ab"]
    assert contents[0] == contents[1]


@given(st.lists(st.tuples(st.text(max_size=12), st.integers(1, 1000), st.integers(1, 1000)), min_size=15, max_size=15))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_basic_any_metadata_follows_the_published_rule(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, int]]
) -> None:
    text, width, height = (list(column) for column in zip(*rows, strict=True))
    metadata = pa.table({"text": text, "original_width": width, "original_height": height})
    root = tmp_path_factory.mktemp("basic")
    pool, _ = make_pool(root, [8, 7], metadata=metadata)
    scores = by_number(run(basic_selector(root), root / "scores", pool))
    assert scores == {n: float(plain_rule(*row)) for n, row in enumerate(rows)}


@given(st.lists(st.one_of(st.none(), st.floats(-1024, 1024, width=32)), min_size=14, max_size=14))
@settings(deadline=None, max_examples=15)
def test_column_any_values_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, values: list[float | None]
) -> None:
    values = [0.5, *values]
    root = tmp_path_factory.mktemp("column")
    pool, _ = make_pool(root, [8, 7], metadata=pa.table({"clip": pa.array(values, pa.float32())}))
    found = by_number(run(column_selector(root), root / "scores", pool))
    assert found == {n: value for n, value in enumerate(values) if value is not None}


def test_column_with_nothing_in_it_gives_an_empty_table_that_is_counted(tmp_path: Path) -> None:
    pool, _ = make_pool(tmp_path, [8, 7], metadata=pa.table({"clip": pa.array([None] * 15, pa.float32())}))
    scores = run(column_selector(tmp_path), tmp_path / "scores", pool)
    assert scores.summary["coverage"] == 0.0
    assert scores.manifest.counts is not None
    assert scores.manifest.counts.dropped == {"no score": 15}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1e39])
def test_column_beyond_float32_is_the_inputs_fault(tmp_path: Path, value: float) -> None:
    values = pa.array([0.5] * 9 + [value] + [0.5] * 5, pa.float64())
    pool, _ = make_pool(tmp_path, [8, 7], metadata=pa.table({"clip": values}))
    with pytest.raises(UserError, match="write null instead") as caught:
        run(column_selector(tmp_path), tmp_path / "scores", pool)
    assert "{:016x}{:016x}".format(*uid_of(9)) in str(caught.value)
    assert caught.value.exit_code == 2


def test_integer_column_is_a_score(tmp_path: Path) -> None:
    pool, _ = make_pool(tmp_path, [8, 7], metadata=pa.table({"clip": pa.array(range(15), pa.uint8())}))
    found = by_number(run(column_selector(tmp_path), tmp_path / "scores", pool))
    assert found == {n: float(n) for n in range(15)}


def test_language_model_that_is_missing_says_where_it_was_looked_for(tmp_path: Path) -> None:
    config = BasicConfig(kind="basic", language=FastTextModel(fasttext=str(tmp_path / "lid.bin")))
    declared = BasicSelector(config, name="basic", pool_path="").external()["language"]
    assert declared.uri == str(tmp_path / "lid.bin")
    assert "lid.176.bin" in declared.missing


def test_language_column_is_wanted_of_the_metadata_too() -> None:
    config = BasicConfig(kind="basic", language="column:lang", text="caption")
    types = BasicSelector(config, name="basic", pool_path="").metadata_types()
    assert set(types) == {"caption", "original_width", "original_height", "lang"}
    assert np.all([test(kind) for test, kind in ((types["lang"], pa.string()), (types["caption"], pa.large_string()))])
