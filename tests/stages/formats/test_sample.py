import io
import tarfile

import pytest
from PIL import Image

from pipeline.errors import RunError
from stages.formats.sample import decode_sample, sample_place


def sample_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        end = tar.offset
    return buffer.getvalue()[:end]


def image_bytes(kind: str, size: tuple[int, int] = (24, 12)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (10, 200, 30)).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_sample_is_decoded_to_a_square(kind: str) -> None:
    data = sample_bytes({f"1.{kind.lower()}": image_bytes(kind), "1.txt": b"green"})
    for form in (data, memoryview(data)):
        sample = decode_sample(form, 8, where="here")
        assert sample.pixels.shape == (3, 8, 8)
        assert (sample.pixels.reshape(3, -1).T == (10, 200, 30)).all()
        assert sample.caption == "green"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (sample_bytes({"1.png": b"no png", "1.txt": b"x"}), "cannot be read"),
        (sample_bytes({"1.png": image_bytes("PNG")[:60], "1.txt": b"x"}), "cannot be read"),
        (sample_bytes({"1.png": image_bytes("PNG")}), "cannot be read"),
        (sample_bytes({"1.txt": b"x"}), "cannot be read"),
        (sample_bytes({"1.txt": b"x" * 600})[:-512], "not what the pool's index says"),
        (b"\x01" * 512, "not what the pool's index says"),
    ],
)
def test_bytes_that_are_no_sample_stop_with_their_place(data: bytes, message: str) -> None:
    with pytest.raises(RunError, match=message) as error:
        decode_sample(data, 8, where=sample_place("s3://b/0.tar", 512, 1, 255))
    assert "s3://b/0.tar, offset 512, uid 000000000000000100000000000000ff" in str(error.value)
