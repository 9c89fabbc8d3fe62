import base64
import io
import tarfile

import pytest
from PIL import Image

from pipeline.errors import RunError
from pipeline.storage import Storage
from stages.report.gallery import Shown
from stages.report.pictures import EDGE, picture_of, read_pictures


def _sample(members):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        end = tar.offset
    return sink.getvalue()[:end]


def _image(width=300, height=150, kind="JPEG", mode="RGB"):
    sink = io.BytesIO()
    Image.new(mode, (width, height), 200 if mode == "L" else (200, 30, 30)).save(sink, kind)
    return sink.getvalue()


def _decoded(picture):
    return Image.open(io.BytesIO(base64.b64decode(picture.image.partition(",")[2])))


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("PNG", "RGB"), ("WEBP", "RGB"), ("JPEG", "L")])
def test_picture_is_a_small_jpeg_in_proportion(kind, mode):
    ending = kind.lower()
    picture = picture_of(_sample({f"0.{ending}": _image(kind=kind, mode=mode), "0.txt": b"a caption"}))
    small = _decoded(picture)
    assert (small.format, small.size) == ("JPEG", (EDGE, EDGE // 2))
    assert (picture.width, picture.height, picture.caption) == (300, 150, "a caption")


def test_picture_caption_comes_from_json_where_there_is_no_text():
    assert picture_of(_sample({"0.jpg": _image(), "0.json": b'{"caption": "from json"}'})).caption == "from json"


def test_picture_long_caption_is_cut():
    caption = picture_of(_sample({"0.jpg": _image(), "0.txt": b"x" * 5000})).caption
    assert len(caption) == 240
    assert caption.endswith("…")


def test_picture_of_broken_image_says_why():
    picture = picture_of(_sample({"0.jpg": b"no picture at all", "0.txt": b"c"}))
    assert picture.image is None
    assert picture.problem.startswith("unreadable")
    assert picture.caption == "c"


def test_picture_of_truncated_image_says_why():
    assert picture_of(_sample({"0.jpg": _image(2000, 2000)[:3000], "0.txt": b"c"})).problem.startswith("unreadable")


def test_picture_without_image_member_says_so():
    assert picture_of(_sample({"0.txt": b"c"})).problem == "no image member"


def test_pictures_are_those_of_the_wanted_samples(finished):
    row, index = 5, finished.inputs["pool"]
    table = next(t for t in index.tables("index/") if finished.lo[row] in t["uid_lo"].to_pylist())
    place = table.to_pylist()[table["uid_lo"].to_pylist().index(int(finished.lo[row]))]
    shown = Shown(finished.uids[row], place["shard"], place["offset"], place["length"], place["key"], "kept", {}, {})
    folder = str(finished.root / "pool_shards")
    pictures = read_pictures(Storage(), index, folder, [shown, shown])
    assert list(pictures) == [finished.uids[row]]
    assert pictures[shown.uid].caption.endswith("number 5")


def test_picture_of_bytes_that_are_no_members_is_an_error():
    with pytest.raises(RunError, match="not what the pool's index says"):
        picture_of(b"x" * 1024)
