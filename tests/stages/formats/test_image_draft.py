"""`decode: draft` beside exact decoding."""

import io

import numpy as np
import pytest
from PIL import Image

from stages.formats.image import ImageError, decode_image, decode_image_into
from tests.stages.formats.test_image import encoded, picture


def difference(data: bytes, side: int) -> np.ndarray:
    exact, draft = decode_image(data, side), decode_image(data, side, "draft")
    assert exact.shape == draft.shape == (3, side, side)
    return np.abs(exact.astype(int) - draft)


@pytest.mark.parametrize("size", [(64, 64), (50, 40), (41, 97), (300, 200), (33, 500), (500, 33), (7, 5), (63, 40)])
@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_draft_of_what_cannot_be_reduced_differs_by_rounding_alone(size: tuple[int, int], side: int, mode: str) -> None:
    found = difference(encoded(picture(mode, size), "PNG"), side)
    assert found.max() <= 2
    assert (found > 1).mean() < 0.01
    assert (found > 0).mean() < 0.3


@pytest.mark.parametrize("size", [(63, 63), (200, 63), (63, 100)])
def test_draft_of_a_jpeg_below_twice_the_side_is_not_reduced(size: tuple[int, int]) -> None:
    assert difference(encoded(picture(size=size)), 32).max() <= 2


@pytest.mark.parametrize("size", [(64, 64), (256, 300), (130, 400)])
def test_draft_of_a_large_jpeg_is_reduced_and_near(size: tuple[int, int]) -> None:
    smooth = Image.linear_gradient("L").resize(size).convert("RGB")
    data = encoded(smooth, quality=95)
    reduced = Image.open(io.BytesIO(data))
    reduced.draft("RGB", (32, 32))
    assert min(reduced.size) < min(size)
    assert min(reduced.size) >= 32
    assert difference(data, 32).max() <= 8


def test_draft_takes_the_same_part_of_the_picture() -> None:
    image = Image.new("RGB", (400, 200), "red")
    image.paste("blue", (100, 0, 300, 200))  # the centre, nothing else
    pixels = decode_image(encoded(image, quality=95), 50, "draft")
    assert (pixels[2, :, 2:-2] > 240).all()
    assert (pixels[0, :, 2:-2] < 15).all()


@pytest.mark.parametrize("size", [(2, 500), (500, 2)])
def test_draft_of_a_strip_is_exact(size: tuple[int, int]) -> None:
    assert difference(encoded(picture(size=size), "PNG"), 16).max() == 0


@pytest.mark.parametrize("decode", ["exact", "draft"])
def test_decode_into_memory_fills_it_and_nothing_else(decode: str) -> None:
    batch = np.full((3, 3, 24, 24), 7, np.uint8)
    data = encoded(picture())
    decode_image_into(data, batch[1], decode)  # type: ignore[arg-type]
    np.testing.assert_array_equal(batch[1], decode_image(data, 24, decode))  # type: ignore[arg-type]
    assert (batch[[0, 2]] == 7).all()


@pytest.mark.parametrize("decode", ["exact", "draft"])
def test_broken_image_leaves_the_memory_as_it_was(decode: str) -> None:
    memory = np.full((3, 24, 24), 7, np.uint8)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_image_into(encoded(picture(size=(200, 200)))[:900], memory, decode)  # type: ignore[arg-type]
    assert (memory == 7).all()


def test_draft_is_the_same_whatever_the_number_of_threads() -> None:
    import torch

    data = encoded(picture(size=(300, 200)))
    threads = torch.get_num_threads()
    found = []
    for number in (1, 3):
        torch.set_num_threads(number)
        found.append(decode_image(data, 48, "draft"))
    torch.set_num_threads(threads)
    np.testing.assert_array_equal(*found)
