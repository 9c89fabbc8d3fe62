import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.formats.datacomp import SampleError, sample_parts
from stages.formats.pair import Pair, PairError, pair_of
from stages.formats.tar import ShardReader, tar_bytes


def test_caption_comes_from_txt_before_json() -> None:
    members = [("1.jpg", b"J"), ("1.json", b'{"caption": "from json"}'), ("1.txt", "grüße\n".encode())]
    assert pair_of(members) == Pair(b"J", "grüße\n")


def test_caption_falls_back_to_json() -> None:
    assert pair_of([("a.b/c.WEBP", b"W"), ("a.b/c.json", b'{"caption": ""}')]) == Pair(b"W", "")


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


extensions = st.sampled_from(
    ["jpg", "jpeg", "png", "webp", "txt", "seg.png", "orig.jpg", "alt.txt", "meta.json", "JPG"]
)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(extensions, unique_by=str.lower, min_size=1, max_size=6), st.booleans(), st.sampled_from(["1", "a.b/1"])
)
def test_pair_is_what_the_index_calls_image_and_caption(endings: list[str], in_json: bool, key: str) -> None:
    """The index judged one member of a sample; what is trained on must be that one."""
    facts = {"uid": "0" * 32, **({"caption": "from json"} if in_json else {})}
    members = [(f"{key}.{ending}", f"bytes of {ending}".encode()) for ending in endings]
    members.append((f"{key}.json", json.dumps(facts).encode()))
    (sample,) = ShardReader(io.BytesIO(tar_bytes(members)))
    try:
        parts = sample_parts(sample)
    except SampleError:
        with pytest.raises(PairError):
            pair_of(members)
        return
    assert pair_of(members) == Pair(parts.image.data, parts.caption)


def test_member_with_a_longer_ending_is_not_the_image_nor_the_caption() -> None:
    members = [("1.png", b"P"), ("1.seg.jpg", b"S"), ("1.txt", b"caption"), ("1.alt.txt", b"other")]
    assert pair_of(members) == Pair(b"P", "caption")
