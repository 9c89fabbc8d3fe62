"""DataComp's basic filter, but for its language test: caption length, image size and shape."""

import polars as pl

_WORD = r"[^\s\x1c-\x1f]+"
"""What `str.split()` splits off: besides Unicode's white space Python counts four separators of ASCII."""


def num_words(text: pl.Expr) -> pl.Expr:
    """Words between white space, as `len(text.split())` counts them."""
    return text.str.count_matches(_WORD)


def long_enough(text: pl.Expr, *, min_words: int, min_chars: int) -> pl.Expr:
    """At least so many words and code points."""
    return (num_words(text) >= min_words) & (text.str.len_chars() >= min_chars)


def large_enough(width: pl.Expr, height: pl.Expr, *, min_side: int, max_aspect: float) -> pl.Expr:
    """Shorter side and aspect ratio within bounds, both inclusive; an absent side is not."""
    known = width.is_not_null() & height.is_not_null()  # the horizontal functions would skip an absent side
    shorter = pl.min_horizontal(width, height).cast(pl.Float64)
    longer = pl.max_horizontal(width, height).cast(pl.Float64)
    return known & (shorter >= min_side) & (longer / shorter <= max_aspect)
