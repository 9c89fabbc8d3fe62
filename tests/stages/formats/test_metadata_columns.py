from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.formats.metadata_columns import (
    Reader,
    check_columns,
    check_index,
    check_metadata,
    is_label,
    is_number,
    is_rankable,
    is_text,
)
from tests.stages.train.tiny_pool import make_pool

SCHEMA = pa.schema([("uid", pa.string()), ("clip", pa.float16()), ("text", pa.large_string())])
X = Reader("selector x", "selectors.x")
MINE = Reader("selector mine", "selectors.mine", "; selectors: loss")


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


def test_labels_may_be_dictionaries_and_ranks_booleans() -> None:
    assert is_label(pa.dictionary(pa.int8(), pa.string()))
    assert not is_label(pa.dictionary(pa.int8(), pa.int64()))
    assert not is_text(pa.dictionary(pa.int8(), pa.string()))
    assert is_rankable(pa.bool_())
    assert not is_rankable(pa.string())


def test_column_that_the_index_renames_is_known_by_its_new_name() -> None:
    schema = pa.schema([("uid", pa.string()), ("width", pa.string())])
    check_columns(schema, {"width": is_number, "metadata_width": is_text}, X, "here")
    with pytest.raises(UserError, match="metadata_height"):
        check_columns(schema, {"metadata_height": is_number}, X, "here")


def test_columns_that_fit_pass_the_pools_own_among_them() -> None:
    check_columns(SCHEMA, {"clip": is_number, "text": is_text, "words": is_number}, X, "here")


def test_absent_columns_are_all_named_with_what_there_is() -> None:
    with pytest.raises(UserError) as error:
        check_columns(SCHEMA, {"clip": is_number, "a": is_text, "b": is_text}, MINE, "here.parquet")
    message = str(error.value)
    assert "selector mine needs what the metadata does not have: a, b" in message
    assert "here.parquet" in message
    assert "found: columns uid, clip, text; selectors: loss" in message
    assert "selectors.mine" in message


def test_column_of_another_kind_says_which_is_wanted() -> None:
    with pytest.raises(UserError) as error:
        check_columns(SCHEMA, {"text": is_number}, MINE, "here.parquet")
    assert "cannot use metadata column text" in str(error.value)
    assert "expected: integers or floats" in str(error.value)
    assert "found: large_string" in str(error.value)


def test_nothing_is_read_where_nothing_is_wanted() -> None:
    check_metadata({}, Storage(), {"clip": is_number}, X)


def test_index_is_checked_by_its_first_bucket(tmp_path: Path) -> None:
    pool, _ = make_pool(tmp_path, [3], metadata=pa.table({"clip": [0.1, 0.2, 0.3]}))
    check_index(pool, {"clip": is_number, "width": is_number}, X)
    with pytest.raises(UserError, match="does not have: other"):
        check_index(pool, {"other": is_number}, X)
