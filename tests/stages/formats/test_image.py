import contextlib
import io
import struct
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


MODES = [
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "LAB",
    "I",
    "F",
    "LA",
    "PA",
    "RGBX",
    "RGBa",
    "I;16",
    "I;16B",
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"transparency": 0}, {"transparency": (0, 0, 0)}])
def test_whatever_passes_the_check_can_be_decoded(mode: str, options: dict[str, object]) -> None:
    """A sample that the index calls usable and that training cannot read would stop the run."""
    num_written = 0
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        try:
            data = encoded(Image.new(mode, (20, 10)), kind, **options)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error):
            continue  # Pillow does not write this mode so
        num_written += 1
        probe_image(data)
        verify_image(data)
        assert decode_image(data, 8).shape == (3, 8, 8)
    assert num_written or options


def test_decode_exif_orientation_is_ignored_as_open_clip_ignores_it() -> None:
    image = Image.new("RGB", (40, 40), "red")
    image.paste("blue", (0, 0, 20, 40))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    data = encoded(image, "JPEG", quality=95, exif=exif.tobytes())
    pixels = decode_image(data, 8)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    assert (pixels[2, :, :3] > 200).all()
    assert (pixels[0, :, 5:] > 200).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_decode_single_pixel_fills_the_square(kind: str) -> None:
    data = encoded(Image.new("RGB", (1, 1), (200, 200, 200)), kind)
    info = probe_image(data)
    pixels = decode_image(data, 16)
    assert (info.width, info.height) == (1, 1)
    assert pixels.shape == (3, 16, 16)
    assert (abs(pixels.astype(int) - 200) <= 6).all()


@pytest.mark.parametrize(("width", "height"), [(33, 1), (32, 1), (31, 1), (1, 33), (65, 2), (64, 2)])
def test_decode_around_the_bound_of_aspect_gives_the_centre(width: int, height: int) -> None:
    """On both sides of the bound from which the centre is cut out first."""
    image = Image.new("RGB", (width, height), "red")
    long = max(width, height)
    middle = slice(long // 2 - 3, long // 2 + 4)
    for place in range(long)[middle]:
        image.paste("blue", (place, 0, place + 1, height) if width > height else (0, place, width, place + 1))
    pixels = decode_image(encoded(image, "PNG"), 16)
    assert (pixels[2] > 250).all()
    assert (pixels[0] < 5).all()


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 90), height=st.integers(1, 90), side=st.integers(1, 40))
def test_decode_any_shape_equals_torchvision(width: int, height: int, side: int) -> None:
    rng = np.random.default_rng(width * 100 + height)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    found = decode_image(encoded(image, "BMP"), side)
    if max(width, height) > 32 * min(width, height):
        assert found.shape == (3, side, side)
        return
    oracle = Compose([Resize(side, InterpolationMode.BICUBIC), CenterCrop(side)])
    np.testing.assert_array_equal(found, np.asarray(oracle(image)).transpose(2, 0, 1))


def test_decode_equals_open_clips_own_preprocessing() -> None:
    """open_clip's evaluation transform, before it normalises."""
    from open_clip.transform import image_transform

    for size in ((50, 40), (41, 97), (20, 20)):
        image = picture(size=size)
        transform = image_transform(32, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3)
        expected = (transform(image).numpy() * 255).round().astype(np.uint8)
        np.testing.assert_array_equal(decode_image(encoded(image, "PNG"), 32), expected)


def test_decode_half_transparent_is_half_white() -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert (abs(decode_image(encoded(image, "PNG"), 4).astype(int) - 127) <= 1).all()


def test_decode_greyscale_with_a_transparent_value_is_white_there() -> None:
    image = Image.new("L", (8, 8), 10)
    image.paste(90, (0, 0, 4, 8))
    pixels = decode_image(encoded(image, "PNG", transparency=10), 8)
    assert (pixels[:, :, 5:] > 230).all()
    assert (pixels[:, :, :3] < 120).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_is_told_and_its_first_frame_used(kind: str) -> None:
    frames = [Image.new("RGB", (12, 12), colour) for colour in ("blue", "red", "green")]
    data = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert "animated" in probe_image(data).normalised
    assert (decode_image(data, 4).reshape(3, -1).T == (0, 0, 255)).all()


def test_picture_of_two_cameras_is_no_animation() -> None:
    """MPO: a JPEG with a second view behind it, as phones write it."""
    views = [picture(), picture()]
    data = encoded(views[0], "MPO", save_all=True, append_images=views[1:])
    info = probe_image(data)
    assert (info.format, info.normalised) == ("MPO", ())
    first = Image.open(io.BytesIO(data)).convert("RGB")
    assert abs(decode_image(data, 40).astype(int).mean() - np.asarray(first).mean()) < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_cut_file_is_an_error_wherever_it_is_cut_in_its_first_half(kind: str) -> None:
    data = encoded(picture(size=(60, 50)), kind)
    for length in range(0, len(data) // 2, max(1, len(data) // 60)):
        with pytest.raises(ImageError):
            probe_image(data[:length])
        with pytest.raises(ImageError):
            decode_image(data[:length], 16)


@pytest.mark.parametrize("kind", ["ICO", "PPM", "ICNS", "PCX", "TGA"])
def test_format_that_open_clip_pools_do_not_have_is_refused(kind: str) -> None:
    """Fewer readers of untrusted bytes."""
    with pytest.raises(ImageError, match="not an image"):
        decode_image(encoded(Image.new("RGB", (16, 16)), kind), 8)


def test_open_limit_of_pixels_is_inclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "MAX_PIXELS", 50 * 40)
    assert probe_image(encoded(picture())).width == 50
    monkeypatch.setattr(image_module, "MAX_PIXELS", 50 * 40 - 1)
    with pytest.raises(ImageError, match="50 x 40 pixels"):
        probe_image(encoded(picture()))


def test_decoding_leaves_the_bytes_alone_and_gives_an_array_of_its_own() -> None:
    data = encoded(picture(), "PNG")
    before = bytes(data)
    first = decode_image(data, 16)
    first[:] = 0
    assert data == before
    assert decode_image(data, 16).any()
    assert first.flags.c_contiguous
    assert first.flags.writeable
