"""The demo's evaluation set, in the webdataset layout of CLIP_benchmark, from digits that nothing else shows."""

import tarfile
from pathlib import Path

import numpy as np

from stages.pool.demo.captions import WORDS, describe
from stages.pool.demo.render import Shot, jpeg, render
from stages.pool.demo.scene import Scene, draw_scene
from stages.pool.demo.shards import add_member
from stages.pool.demo.sources import Source

TEMPLATES = (
    "a handwritten {c}",
    "photo of the digit {c}",
    "a picture of a {c}",
    "the number {c} written by hand",
    "close-up of a {c}",
)
CLASSIFICATION = "wds_digits_test"
RETRIEVAL = "wds_pairs_test"


def write_evaluation(folder: Path, source: Source, num_images: int, seed: int) -> None:
    """Write `wds_digits_test` (which digit?) and `wds_pairs_test` (which caption?), `num_images` pictures each."""
    digits = folder / CLASSIFICATION
    (digits / "test").mkdir(parents=True)
    (digits / "classnames.txt").write_text("\n".join(WORDS) + "\n")
    (digits / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    _write(digits / "test", [_labelled(source, seed, index) for index in range(num_images)], "cls")
    pairs = folder / RETRIEVAL
    (pairs / "test").mkdir(parents=True)
    (pairs / "dataset_type.txt").write_text("retrieval\n")
    _write(pairs / "test", [_captioned(source, seed, index) for index in range(num_images)], "txt")


def _labelled(source: Source, seed: int, index: int) -> tuple[Scene, str]:
    scene = draw_scene(source, np.random.default_rng([seed, 6, index]), num_glyphs=1)
    return scene, str(scene.glyphs[0].digit)


def _captioned(source: Source, seed: int, index: int) -> tuple[Scene, str]:
    rng = np.random.default_rng([seed, 7, index])
    scene = draw_scene(source, rng)
    return scene, describe(scene, rng)


def _write(folder: Path, pairs: list[tuple[Scene, str]], ending: str) -> None:
    (folder / "nshards.txt").write_text("1\n")
    with tarfile.open(folder / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for index, (scene, label) in enumerate(pairs):
            picture = jpeg(render(scene, Shot(64, 64)), 88)
            members = {"jpg": picture, ending: label.encode()}
            for extension in sorted(members):
                add_member(tar, f"s{index:07d}.{extension}", members[extension])
