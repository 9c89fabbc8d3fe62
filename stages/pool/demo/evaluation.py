"""The demo's evaluation set, in the webdataset layout of CLIP_benchmark, from digits that nothing else shows."""

import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.pool.demo.captions import WORDS, describe
from stages.pool.demo.render import Shot, jpeg, render
from stages.pool.demo.scene import PALETTE, Scene, draw_scene
from stages.pool.demo.shards import add_member
from stages.pool.demo.sources import Source

_DIGIT_TEMPLATES = (
    "a handwritten {c}",
    "the digit {c}",
    "a picture of a red {c}",
    "photo of a blue {c}",
    "close-up of a white {c}",
    "a black {c} written by hand",
)
_COLOUR_TEMPLATES = tuple(f"{frame} {{c}} {word}" for frame in ("a", "photo of a") for word in WORDS)
DIGITS = "wds_digits_test"
COLOURS = "wds_colours_test"
RETRIEVAL = "wds_pairs_test"


def write_evaluation(folder: Path, source: Source, num_images: int, seed: int) -> None:
    """Write three sets of `num_images` pictures each.

    `wds_digits_test` asks for the digit shown, `wds_colours_test` for its colour (of the same pictures), and
    `wds_pairs_test` for captions. Digits are the harder question by far: small models learn colours first.
    """
    scenes = [_single(source, seed, index) for index in range(num_images)]
    digits = [(scene, str(scene.glyphs[0].digit)) for scene in scenes]
    _write_classes(folder / DIGITS, digits, WORDS, _DIGIT_TEMPLATES)
    names = tuple(PALETTE)
    colours = [(scene, str(names.index(scene.glyphs[0].colour))) for scene in scenes]
    _write_classes(folder / COLOURS, colours, names, _COLOUR_TEMPLATES)
    pairs = folder / RETRIEVAL
    (pairs / "test").mkdir(parents=True)
    (pairs / "dataset_type.txt").write_text("retrieval\n")
    _write(pairs / "test", [_captioned(source, seed, index) for index in range(num_images)], "txt")


def _write_classes(
    folder: Path, examples: list[tuple[Scene, str]], classes: Sequence[str], templates: Sequence[str]
) -> None:
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("\n".join(classes) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    _write(folder / "test", examples, "cls")


def _single(source: Source, seed: int, index: int) -> Scene:
    return draw_scene(source, np.random.default_rng([seed, 6, index]), num_glyphs=1)


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
