"""DataComp's basic filter, but for its language test: caption length, image size and shape."""

import polars as pl

_SPACE = r"\s\x1c-\x1f"
"""What `str.split()` splits at: besides Unicode's white space Python counts four separators of ASCII."""
_LETTER, _GAP = f"[^{_SPACE}]", f"[{_SPACE}]"
_MOST_SOUGHT = 16
"""Words that one pattern asks for; where there must be more, all are counted."""


def at_least_words(text: pl.Expr, number: int) -> pl.Expr:
    """Whether there are so many words between white space, as `len(text.split())` counts them.

    A search ends at the last word that is asked for: mostly long before the caption does.
    """
    if number == 0:
        return text.is_not_null()
    if number > _MOST_SOUGHT:
        return text.str.count_matches(f"{_LETTER}+") >= number
    return text.str.contains(f"{_LETTER}(?:{_LETTER}*{_GAP}+{_LETTER}){{{number - 1}}}")


def long_enough(text: pl.Expr, *, min_words: int, min_chars: int) -> pl.Expr:
    """At least so many words and code points."""
    return at_least_words(text, min_words) & (text.str.len_chars() >= min_chars)


def large_enough(width: pl.Expr, height: pl.Expr, *, min_side: int, max_aspect: float) -> pl.Expr:
    """Shorter side and aspect ratio within bounds, both inclusive; an absent side is not."""
    known = width.is_not_null() & height.is_not_null()  # the horizontal functions would skip an absent side
    shorter = pl.min_horizontal(width, height).cast(pl.Float64)
    longer = pl.max_horizontal(width, height).cast(pl.Float64)
    return known & (shorter >= min_side) & (longer / shorter <= max_aspect)
