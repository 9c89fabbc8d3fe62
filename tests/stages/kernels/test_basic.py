import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.kernels.basic import at_least_words, large_enough, long_enough


def one(frame, expression):
    return pl.DataFrame(frame).select(expression).to_series().to_list()


SPACES = " \t\n\x0b\x1c\x1d\x1e\x1f\x85\xa0\u2003\u3000\u200b"


@given(
    text=st.text(st.one_of(st.sampled_from("a"), st.sampled_from(SPACES), st.characters(codec="utf-8"))),
    number=st.one_of(st.integers(0, 6), st.sampled_from([15, 16, 17, 18])),
)
def test_at_least_words_equals_python_split(text, number):
    assert one({"text": [text]}, at_least_words(pl.col("text"), number)) == [len(text.split()) >= number]


@pytest.mark.parametrize("number", [1, 2, 15, 16, 17, 40])
def test_at_least_words_at_its_bound(number):
    texts = [" ".join(["\u00e4b"] * count) for count in (number - 1, number, number + 1)]
    assert one({"text": texts}, at_least_words(pl.col("text"), number)) == [False, True, True]


def test_absent_caption_has_no_words_that_are_enough():
    frame = pl.DataFrame({"text": [None, "a"]})
    assert frame.select(at_least_words(pl.col("text"), 0)).to_series().to_list() == [False, True]
    assert frame.select(at_least_words(pl.col("text"), 1).fill_null(False)).to_series().to_list() == [False, True]


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
