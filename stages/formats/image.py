"""Encoded images: what they are, whether they are whole, and pixels as CLIP takes them."""

import io
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import (  # noqa: F401  # readers are registered here, not by the first of several threads that decodes
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

MAX_PIXELS = 89_000_000
"""Above this a small file would take gigabytes once decoded."""

Decode = Literal["exact", "draft"]
"""`exact` is what CLIP's own preprocessing gives; `draft` is faster, and a little different.

In draft mode a JPEG that is at least twice as large as needed is decoded at a half, a quarter or an eighth of its size,
and pictures are resized in 8-bit arithmetic (`image_draft.py`).
"""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_MAX_ASPECT = 32
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_TAIL = 16


class ImageError(ValueError):
    """Bytes that are no whole image."""


class ImageInfo(NamedTuple):
    """What the header says."""

    width: int
    """Pixels."""
    height: int
    format: str
    """Pillow's name, such as `JPEG`."""
    normalised: tuple[str, ...]
    """What decoding to RGB will change: greyscale, palette, cmyk, alpha, deep, animated."""


def probe_image(data: bytes) -> ImageInfo:
    """Read the header, and see whether the file has its end.

    Files that do not end as their format says are decoded in full, so that only those pass that can be read.

    Raises:
        ImageError: not an image, too many pixels, or cut off.
    """
    image = _open(data)
    try:
        changes = _changes(image)
    except Exception as error:  # counting frames reads on
        raise ImageError(f"cannot be decoded: {_shown(error)}") from error
    info = ImageInfo(image.width, image.height, image.format or "", changes)
    if not _has_end(data, info.format):
        verify_image(data)
    return info


def verify_image(data: bytes) -> None:
    """Decode every byte of the first frame.

    JPEGs are decoded at an eighth of their size, which reads all of their coded data and saves most of the rest.

    Raises:
        ImageError: not an image, too many pixels, cut off, or broken.
    """
    image = _open(data)
    image.draft("RGB", (1, 1))
    _load(image)


def decode_image(data: bytes, image_size: int, decode: Decode = "exact") -> NDArray[np.uint8]:
    """Pixels of the centre, as CLIP's own preprocessing gives them before normalisation.

    The shorter side is resized to `image_size` (bicubic), the centre cut out. The first frame of an animation;
    transparency over white. Orientation tags are ignored, as open_clip ignores them.

    Args:
        data: an encoded image.
        image_size: S, pixels.
        decode: see `Decode`.

    Returns:
        [3, S, S] RGB.

    Raises:
        ImageError: as `verify_image`.
    """
    pixels = np.empty((3, image_size, image_size), np.uint8)
    decode_image_into(data, pixels, decode)
    return pixels


def decode_image_into(data: bytes, out: NDArray[np.uint8], decode: Decode = "exact") -> None:
    """`decode_image` into memory that exists already: `out`, [3, S, S].

    Raises:
        ImageError: as `verify_image`; `out` then is as it was.
    """
    size = out.shape[-1]
    image = _open(data)
    if decode == "draft":
        image.draft("RGB", (size, size))
    _load(image)
    rgb = _to_rgb(image)
    if decode == "draft" and not _is_strip(rgb):
        from stages.formats.image_draft import quick_centre  # brings torch, which exact decoding does without

        out[:] = quick_centre(rgb, size)
    else:
        out[:] = np.asarray(_centre(rgb, size)).transpose(2, 0, 1)  # [S, S, 3] before


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Exception as error:  # Pillow's readers raise whatever broken bytes lead them to
        raise ImageError(f"not an image: {_shown(error)}") from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}")
    if min(image.size) < 1:
        raise ImageError(f"an image of {image.width} x {image.height} pixels")
    return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:  # as above
        raise ImageError(f"cannot be decoded: {_shown(error)}") from error


def _shown(error: Exception) -> str:
    return str(error).split(" <_io.")[0] or type(error).__name__  # without an address that differs from run to run


def _has_end(data: bytes, image_format: str) -> bool:
    if image_format == "WEBP":
        return len(data) >= int.from_bytes(data[4:8], "little") + 8
    end = _ENDS.get(image_format)
    return end is not None and end in data[-_TAIL:]


def _changes(image: Image.Image) -> tuple[str, ...]:
    by_mode = {"1": "greyscale", "L": "greyscale", "LA": "greyscale", "P": "palette", "CMYK": "cmyk", "YCCK": "cmyk"}
    changes = [by_mode[image.mode]] if image.mode in by_mode else []
    if _is_deep(image):
        changes.append("deep")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        changes.append("alpha")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        changes.append("animated")
    return tuple(changes)


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _to_rgb(image: Image.Image) -> Image.Image:
    try:
        if _is_deep(image):
            values = np.asarray(image, np.float64)
            scale = 255.0 / max(65535.0 if image.mode.startswith("I") else 1.0, float(values.max()))
            image = Image.fromarray(np.nan_to_num(values * scale).clip(0, 255).astype(np.uint8))
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            layered = image.convert("RGBA")
            canvas = Image.new("RGBA", layered.size, "white")
            return Image.alpha_composite(canvas, layered).convert("RGB")
        return image if image.mode == "RGB" else image.convert("RGB")
    except (OSError, ValueError, MemoryError) as error:
        raise ImageError(f"cannot be converted to RGB: {_shown(error)}") from error


def resized(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height once the shorter side is `size`, rounded as torchvision rounds."""
    long = int(size * max(width, height) / min(width, height))
    return (size, long) if width <= height else (long, size)


def centred(length: int, size: int) -> int:
    """Where `size` pixels begin in the middle of `length`, rounded as torchvision rounds."""
    return round((length - size) / 2)


def _is_strip(image: Image.Image) -> bool:
    """Whether the resized picture could be of any length."""
    return max(image.size) > _MAX_ASPECT * min(image.size)


def _centre(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to `size`, then cut out the centre."""
    if _is_strip(image):  # cut first, which loses what is cut anyway
        short = min(image.size)
        left, top = ((length - short) // 2 for length in image.size)
        return image.crop((left, top, left + short, top + short)).resize((size, size), Image.Resampling.BICUBIC)
    image = image.resize(resized(*image.size, size), Image.Resampling.BICUBIC)
    left, top = (centred(length, size) for length in image.size)
    return image.crop((left, top, left + size, top + size))
