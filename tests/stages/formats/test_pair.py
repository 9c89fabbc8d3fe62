import pytest

from stages.formats.pair import Pair, PairError, pair_of


def test_caption_comes_from_txt_before_json() -> None:
    members = [("1.jpg", b"J"), ("1.json", b'{"caption": "from json"}'), ("1.txt", "grüße\n".encode())]
    assert pair_of(members) == Pair(b"J", "grüße\n")


def test_caption_falls_back_to_json() -> None:
    assert pair_of([("a/b.c.WEBP", b"W"), ("a/b.c.json", b'{"caption": ""}')]) == Pair(b"W", "")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.txt", b"x")], "no image"),
        ([], "no image"),
        ([("1.jpg", b"J")], "no caption"),
        ([("1.jpg", b"J"), ("1.json", b"{}")], "no caption"),
        ([("1.jpg", b"J"), ("1.json", b"[]")], "no caption"),
        ([("1.jpg", b"J"), ("1.json", b"{broken")], "no caption"),
        ([("1.jpg", b"J"), ("1.json", b'{"caption": null}')], "no text"),
        ([("1.jpg", b"J"), ("1.txt", b"\xff")], "no caption"),
    ],
)
def test_sample_without_image_or_caption_is_an_error(members: list, message: str) -> None:
    with pytest.raises(PairError, match=message):
        pair_of(members)
