import io
import tarfile

import numpy as np
from PIL import Image

from stages.pool.demo.captions import WORDS
from stages.pool.demo.scene import PALETTE


def _groups(path):
    groups = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, ending = member.name.split(".")
            groups.setdefault(key, {})[ending] = tar.extractfile(member).read()
    return groups


def test_classification_set_has_clip_benchmarks_files(demo):
    folder = demo.evaluation / "wds_digits_test"
    assert (folder / "classnames.txt").read_text().splitlines() == list(WORDS)
    assert all("{c}" in line for line in (folder / "zeroshot_classification_templates.txt").read_text().splitlines())
    assert (folder / "test" / "nshards.txt").read_text() == "1\n"
    groups = _groups(folder / "test" / "0.tar")
    assert len(groups) == 20
    assert all(set(group) == {"jpg", "cls"} and 0 <= int(group["cls"]) <= 9 for group in groups.values())


def test_colour_set_asks_for_the_colour_of_the_same_pictures(demo):
    digits, colours = (
        _groups(demo.evaluation / f"wds_{name}_test" / "test" / "0.tar") for name in ("digits", "colours")
    )
    assert {key: group["jpg"] for key, group in digits.items()} == {key: group["jpg"] for key, group in colours.items()}
    assert (demo.evaluation / "wds_colours_test" / "classnames.txt").read_text().splitlines() == list(PALETTE)
    for group in colours.values():
        pixels = np.asarray(Image.open(io.BytesIO(group["jpg"])), float)
        colour = list(PALETTE.values())[int(group["cls"])]
        assert (np.linalg.norm(pixels - colour, axis=-1) < 90).mean() > 0.05  # the digit is there in that colour


def test_retrieval_set_has_captions_and_pictures_that_open(demo):
    folder = demo.evaluation / "wds_pairs_test" / "test"
    assert (folder.parent / "dataset_type.txt").read_text() == "retrieval\n"
    groups = _groups(folder / "0.tar")
    assert len(groups) == 20
    for group in groups.values():
        assert set(group) == {"jpg", "txt"}
        assert Image.open(io.BytesIO(group["jpg"])).size == (64, 64)
        assert len(group["txt"].decode().split()) >= 2
