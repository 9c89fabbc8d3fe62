import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.kernels.basic import large_enough, long_enough, num_words


def one(frame, expression):
    return pl.DataFrame(frame).select(expression).to_series().to_list()


@given(
    st.text(
        st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \t\n\x0b\x1c\x1d\x1e\x1f\x85\xa0\u2003\u3000\u200b"))
    )
)
def test_num_words_equals_python_split(text):
    assert one({"text": [text]}, num_words(pl.col("text"))) == [len(text.split())]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("aaa bbb", False),
        ("aa b c", True),
        ("a b c", False),
        ("a b cc", True),
        ("äöü ß é", True),
        ("abcdef", False),
        ("", False),
    ],
)
def test_long_enough_at_its_bounds(text, kept):
    # More than two words and more than five characters: 3 words and 6 code points are the least.
    assert one({"text": [text]}, long_enough(pl.col("text"), min_words=3, min_chars=6)) == [kept]


@pytest.mark.parametrize(
    ("width", "height", "kept"),
    [
        (200, 200, True),
        (199, 200, False),
        (200, 199, False),
        (600, 200, True),
        (200, 600, True),
        (602, 200, False),
        (601, 200, False),
        (0, 0, False),
    ],
)
def test_large_enough_at_its_bounds(width, height, kept):
    rule = large_enough(pl.col("w"), pl.col("h"), min_side=200, max_aspect=3.0)
    assert one({"w": [width], "h": [height]}, rule) == [kept]


def test_large_enough_absent_side_is_not():
    rule = large_enough(pl.col("w"), pl.col("h"), min_side=200, max_aspect=3)
    frame = pl.DataFrame({"w": [None, 300, None], "h": [300, None, None]}, schema={"w": pl.Int64, "h": pl.Int64})
    assert frame.select(rule).to_series().to_list() == [False, False, False]
