"""Errors that reach a user: whole after a pickle, and without the secrets that people put into URLs."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import LockedError, RunError, UserError, without_secret


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:word@host:80/path", "http://***@host:80/path"),
        ("at 'https://key@host', and s3://a:b@bucket/k@y", "at 'https://***@host', and s3://***@bucket/k@y"),
        ("http://host/?token=word&x=1 is", "http://host/?*** is"),
        ("'http://host:1?X-Amz-Signature=abc'", "'http://host:1?***'"),
        ("s3://bucket/what?/a@b", "s3://bucket/what?/a@b"),
        ("mail me@host, or (a?b:c)", "mail me@host, or (a?b:c)"),
    ],
)
def test_user_password_and_query_of_a_url_are_not_shown(text: str, shown: str) -> None:
    assert without_secret(text) == shown
    error = UserError(text, where=text, expected=text, found=text, next_step=text)
    for part in (str(error), str(pickle.loads(pickle.dumps(error)))):
        assert part.count(shown) == 5


@given(st.text(st.characters(exclude_characters="/"), max_size=80))
def test_text_without_a_url_is_shown_as_it_is(text: str) -> None:
    assert without_secret(text) == text


@pytest.mark.parametrize("kind", [RunError, UserError, LockedError])
def test_error_after_a_pickle_is_the_same(kind: type[RunError]) -> None:
    error = kind("what", where=("a", 1), found=2.5)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert str(back) == str(error) == "what\n  where: ('a', 1)\n  found: 2.5"
    assert back.parts == error.parts
