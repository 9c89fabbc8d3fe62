from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.selectors.metadata_columns import check_columns, check_index, check_metadata, is_number, is_text
from tests.stages.train.tiny_pool import make_pool

SCHEMA = pa.schema([("uid", pa.string()), ("clip", pa.float16()), ("text", pa.large_string())])


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float16(), pa.float64()])
def test_numbers_are_numbers(kind: pa.DataType) -> None:
    assert is_number(kind)
    assert not is_text(kind)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_texts_are_texts(kind: pa.DataType) -> None:
    assert is_text(kind)
    assert not is_number(kind)


def test_other_kinds_are_neither() -> None:
    for kind in (pa.bool_(), pa.binary(), pa.timestamp("s"), pa.list_(pa.int8())):
        assert not is_text(kind)
        assert not is_number(kind)


def test_columns_that_fit_pass_the_pools_own_among_them() -> None:
    check_columns(SCHEMA, {"clip": is_number, "text": is_text, "words": is_number}, "x", "here")


def test_absent_columns_are_all_named_with_what_there_is() -> None:
    with pytest.raises(UserError) as error:
        check_columns(SCHEMA, {"clip": is_number, "a": is_text, "b": is_text}, "mine", "here.parquet")
    message = str(error.value)
    assert "selector mine needs what the metadata does not have: a, b" in message
    assert "here.parquet" in message
    assert "found: columns uid, clip, text" in message


def test_column_of_another_kind_says_which_is_wanted() -> None:
    with pytest.raises(UserError) as error:
        check_columns(SCHEMA, {"text": is_number}, "mine", "here.parquet")
    assert "cannot use metadata column text" in str(error.value)
    assert "expected: Integers and floats" in str(error.value)
    assert "found: large_string" in str(error.value)


def test_nothing_is_read_where_nothing_is_wanted() -> None:
    check_metadata({}, Storage(), {"clip": is_number}, "x")


def test_index_is_checked_by_its_first_bucket(tmp_path: Path) -> None:
    pool, _ = make_pool(tmp_path, [3], metadata=pa.table({"clip": [0.1, 0.2, 0.3]}))
    check_index(pool, {"clip": is_number, "width": is_number}, "x")
    with pytest.raises(UserError, match="does not have: other"):
        check_index(pool, {"other": is_number}, "x")
