from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.pool.demo.render import Shot
from stages.pool.demo.sample import STORED_SIDE, Sample, stored_size
from stages.pool.demo.scene import Scene

SCENE = Scene((), "plain", "red", "red", 1.0, 0)
SAMPLE = Sample("0f" * 16, SCENE, Shot(96, 96), 400, 400, "a caption", "a caption")


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_stored_size_is_bounded_and_never_larger_than_the_original(width, height):
    stored = stored_size(width, height)
    assert max(stored) == min(STORED_SIDE, max(width, height))
    assert 1 <= stored[0] <= max(width, 1)
    assert 1 <= stored[1] <= max(height, 1)


@given(st.integers(97, 5000), st.floats(0.3, 3.0))
def test_stored_size_keeps_the_aspect_to_a_pixel(width, aspect):
    height = max(1, round(width / aspect))
    stored = stored_size(width, height)
    scale = STORED_SIDE / max(width, height)
    if scale <= 1:
        assert abs(stored[0] - width * scale) <= 0.5
        assert abs(stored[1] - height * scale) <= 0.5


@pytest.mark.parametrize(("size", "stored"), [((96, 96), (96, 96)), ((960, 480), (96, 48)), ((30, 60), (30, 60))])
def test_stored_size_golden_values(size, stored):
    assert stored_size(*size) == stored


def test_only_the_ill_of_that_name_is_a_mismatch():
    assert not SAMPLE.mismatched
    assert replace(SAMPLE, ills=("mismatched",)).mismatched
    assert not replace(SAMPLE, ills=("long_caption", "truncated_tar")).mismatched


def test_url_is_its_own():
    assert SAMPLE.url != replace(SAMPLE, uid="1" * 32).url
    assert SAMPLE.url.endswith(f"{SAMPLE.uid}.jpg")
