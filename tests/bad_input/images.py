"""Images that are broken, odd, or dangerous."""

import io
import struct
import zlib

from PIL import Image

from tests.bad_input.case import Case
from tests.bad_input.pools import between, case, sample
from tests.bad_input.through import Pool
from tests.stages.pool.pools import jpeg

_FAMILY = "image"


def encoded(mode: str, kind: str, size: tuple[int, int] = (24, 16), **options: object) -> bytes:
    """A plain image in a mode and a format."""
    sink = io.BytesIO()
    colour = {"RGB": (200, 30, 40), "CMYK": (0, 90, 90, 10), "RGBA": (200, 30, 40, 90), "LA": (90, 90)}.get(mode, 90)
    Image.new(mode, size, colour).save(sink, kind, **options)
    return sink.getvalue()


def animation(kind: str) -> bytes:
    """Three frames of different colours."""
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "green", "blue")]
    sink = io.BytesIO()
    frames[0].save(sink, kind, save_all=True, append_images=frames[1:], duration=40)
    return sink.getvalue()


def turned() -> bytes:
    """A JPEG whose EXIF says that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("RGB", "JPEG", exif=exif.tobytes())


def png_that_says(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG of some declared size, whatever is in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _damaged_png() -> bytes:
    data = bytearray(encoded("RGB", "PNG", (64, 64)))
    place = data.index(b"IDAT") + 12
    data[place] ^= 0xFF
    return bytes(data)


def _hollow_jpeg() -> bytes:
    """Begins and ends as a JPEG does; half of what was between is gone."""
    data = jpeg(120, 90)
    return data[: len(data) // 2] + data[-2:]


_ACCEPTED: list[tuple[str, bytes, str, tuple[str, ...]]] = [
    ("CMYK JPEG", encoded("CMYK", "JPEG"), "jpg", ("cmyk",)),
    ("greyscale JPEG", encoded("L", "JPEG"), "jpg", ("greyscale",)),
    ("palette PNG", encoded("P", "PNG"), "png", ("palette",)),
    ("palette PNG with a transparent colour", encoded("P", "PNG", transparency=0), "png", ("alpha", "palette")),
    ("PNG with alpha", encoded("RGBA", "PNG"), "png", ("alpha",)),
    ("16-bit PNG", encoded("I;16", "PNG"), "png", ("deep",)),
    ("bilevel PNG", encoded("1", "PNG"), "png", ("greyscale",)),
    ("animated WebP, first frame", animation("WEBP"), "webp", ("animated",)),
    ("animated GIF named .jpg, first frame", animation("GIF"), "jpg", ("animated", "palette")),
    ("1 x 1 pixel", encoded("RGB", "JPEG", (1, 1)), "jpg", ()),
    ("30,000 pixels wide", encoded("RGB", "JPEG", (30_000, 3)), "jpg", ()),
    ("30,000 pixels high and 1 wide", encoded("RGB", "PNG", (1, 30_000)), "png", ()),
    ("PNG named .jpg", encoded("RGB", "PNG"), "jpg", ()),
    ("WebP named .png", encoded("RGB", "WEBP"), "png", ()),
    ("turned by EXIF", turned(), "jpg", ()),
    ("JPEG with bytes behind its end", jpeg() + b"appended by a camera" * 20, "jpg", ()),
    ("broken EXIF", jpeg()[:2] + b"\xff\xe1\x00\x10Exif\x00\x00II*\x00\xff\xff\xff\xff" + jpeg()[2:], "jpg", ()),
]
_QUARANTINED: list[tuple[str, bytes, str]] = [
    ("zero bytes", b"", "jpg"),
    ("a JPEG cut in its header", jpeg()[:40], "jpg"),
    ("a JPEG cut in the middle", jpeg(120, 90)[:-400], "jpg"),
    ("a JPEG without its last 120 bytes", jpeg(120, 90)[:-120], "jpg"),
    ("a PNG cut in the middle", encoded("RGB", "PNG", (600, 400))[:-90], "png"),
    ("a WebP cut in the middle", encoded("RGB", "WEBP", (600, 400))[:-40], "webp"),
    ("a PNG with a damaged byte", _damaged_png(), "png"),
    ("decompression bomb: PNG of 60,000 x 60,000", png_that_says(60_000, 60_000, bytes(1000)), "png"),
    ("decompression bomb: 2^31 pixels wide", png_that_says(0x7FFFFFFF, 1), "png"),
    ("PNG of 0 x 0", png_that_says(0, 0), "png"),
    ("PNG whose rows are missing", png_that_says(64, 64, b""), "png"),
    ("text as .jpg", b"404 Not Found\n", "jpg"),
    ("HTML as .png", b"<!doctype html><html><body>Gone</body></html>", "png"),
    ("SVG as .png", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "png"),
    ("EPS with a program as .jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "jpg"),
    ("PDF as .jpg", b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n%%EOF", "jpg"),
    ("zeros as .jpg", bytes(5000), "jpg"),
]

CASES: list[Case] = [
    *(
        case(name, _FAMILY, "accepted", *changed, build=lambda d=data, e=ending: between(sample(image=d, ending=e)))
        for name, data, ending, changed in _ACCEPTED
    ),
    *(
        case(name, _FAMILY, "quarantined", "broken_image", build=lambda d=data, e=ending: _with(d, e))
        for name, data, ending in _QUARANTINED
    ),
    case("SVG as .svg", _FAMILY, "quarantined", "no_image", build=lambda: _with(b"<svg/>", "svg")),
    case("no image at all", _FAMILY, "quarantined", "no_image", build=lambda: between(sample(without="jpg"))),
]


def _with(data: bytes, ending: str) -> Pool:
    return between([(name, data if name.endswith(f".{ending}") else body) for name, body in sample(ending=ending)])
