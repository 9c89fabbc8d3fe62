import contextlib
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from stages.formats import image as image_module
from stages.formats.image import ImageError, decode_image, probe_image, verify_image

RNG = np.random.default_rng(0)


def picture(mode: str = "RGB", size: tuple[int, int] = (50, 40)) -> Image.Image:
    noise = RNG.integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.linear_gradient("L").resize(size))
        return image
    return image.convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_probe_known_formats_gives_size_and_name(kind: str) -> None:
    info = probe_image(encoded(picture(size=(37, 23)), kind))
    assert (info.width, info.height, info.format) == (37, 23, kind)


@pytest.mark.parametrize("size", [(64, 64), (50, 40), (41, 97), (300, 200), (33, 500), (500, 33), (7, 5), (224, 225)])
@pytest.mark.parametrize("side", [32, 33, 64])
def test_decode_any_size_equals_torchvision(size: tuple[int, int], side: int) -> None:
    data = encoded(picture(size=size), "PNG")
    oracle = Compose([Resize(side, InterpolationMode.BICUBIC), CenterCrop(side)])
    expected = np.asarray(oracle(Image.open(io.BytesIO(data)).convert("RGB"))).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_image(data, side), expected)


@pytest.mark.parametrize("size", [(2, 5000), (5000, 2), (1, 40), (3000, 90)])
def test_decode_extreme_aspect_gives_centre_without_huge_strip(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "red")
    middle = (size[0] // 2, size[1] // 2)
    image.paste("blue", (middle[0] - 60, middle[1] - 60, middle[0] + 60, middle[1] + 60))
    pixels = decode_image(encoded(image, "PNG"), 32)
    assert pixels.shape == (3, 32, 32)
    assert (pixels.reshape(3, -1).T == (0, 0, 255)).all()


def test_decode_transparency_is_composited_over_white() -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert (decode_image(encoded(image, "PNG"), 8) == 255).all()


def test_decode_palette_with_transparent_entry_is_composited_over_white() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    data = encoded(image, "PNG", transparency=1)
    assert (decode_image(data, 8) == 255).all()
    assert probe_image(data).normalised == ("palette", "alpha")


def test_decode_animation_gives_first_frame() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode_image(data, 8).reshape(3, -1).T == (255, 0, 0)).all()
    assert "animated" in probe_image(data).normalised


def test_decode_cmyk_gives_rgb() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG")
    assert (decode_image(data, 8) >= 250).all()
    assert probe_image(data).normalised == ("cmyk",)


def test_decode_sixteen_bit_keeps_its_scale() -> None:
    deep = Image.fromarray(np.full((16, 16), 32768, np.uint16))
    data = encoded(deep, "PNG")
    assert abs(int(decode_image(data, 8).mean()) - 127) <= 1
    assert probe_image(data).normalised == ("deep",)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_decode_any_mode_gives_three_channels(mode: str) -> None:
    assert decode_image(encoded(picture(mode), "PNG"), 24).shape == (3, 24, 24)


def test_probe_rgb_jpeg_says_nothing_is_changed() -> None:
    assert probe_image(encoded(picture())).normalised == ()
    assert probe_image(encoded(picture("L"))).normalised == ("greyscale",)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_probe_cut_file_is_an_error(kind: str, share: float) -> None:
    data = encoded(picture(size=(200, 160)), kind)
    with pytest.raises(ImageError):
        probe_image(data[: int(share * len(data))])


@pytest.mark.parametrize("options", [{"progressive": True}, {"optimize": True}, {"quality": 100, "subsampling": 0}])
def test_verify_cut_jpeg_is_an_error_at_every_length(options: dict[str, object]) -> None:
    data = encoded(picture(size=(64, 64)), "JPEG", **options)
    verify_image(data)
    for length in range(0, len(data) - 40, 97):
        with pytest.raises(ImageError):
            verify_image(data[:length])


def test_probe_jpeg_with_bytes_behind_its_end_is_usable() -> None:
    assert probe_image(encoded(picture()) + b"trailing bytes of a camera" * 4).format == "JPEG"


def test_open_more_pixels_than_allowed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match="more than 1000"):
        decode_image(encoded(picture()), 8)


def test_open_decompression_bomb_is_an_error() -> None:
    data = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(ImageError):
        verify_image(data)


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"%PDF-1.4", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe"]
)
def test_open_something_else_is_an_error(data: bytes) -> None:
    with pytest.raises(ImageError, match="not an image"):
        probe_image(data)


def test_error_text_holds_no_address() -> None:
    for data in (b"nothing like an image", encoded(picture())[:300]):
        with pytest.raises(ImageError) as raised:
            verify_image(data)
        assert "0x" not in str(raised.value)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]), seed=st.integers(0, 2**32))
def test_decode_damaged_bytes_gives_pixels_or_image_error(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(encoded(Image.linear_gradient("L").resize((40, 30)).convert("RGB"), kind))
    for place in rng.integers(0, len(data), 8):
        data[place] = int(rng.integers(256))
    for read in (probe_image, verify_image, lambda found: decode_image(found, 16)):
        with contextlib.suppress(ImageError):
            read(bytes(data))


def test_decode_by_many_threads_at_once_works() -> None:
    data = [encoded(picture(), kind) for kind in ("PNG", "WEBP", "GIF", "JPEG")] * 8
    with ThreadPoolExecutor(8) as pool:
        assert len({pixels.shape for pixels in pool.map(lambda found: decode_image(found, 16), data)}) == 1
