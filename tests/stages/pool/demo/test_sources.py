import numpy as np
from sklearn.datasets import load_digits

from stages.pool.demo.sources import ink, split_sources


def test_parts_share_no_image_and_use_all():
    parts = [source.images() for source in split_sources(0).values()]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 1797


def test_each_part_holds_each_digit_in_its_share():
    sources = split_sources(1)
    counts = np.bincount(load_digits().target)
    for digit in range(10):
        assert abs(len(sources["pool"].by_digit[digit]) - counts[digit] / 2) <= 1
        assert len(sources["evaluation"].by_digit[digit]) >= 30


def test_images_are_filed_under_their_own_digit():
    target = load_digits().target
    for source in split_sources(2).values():
        assert all(target[image] == digit for digit, images in enumerate(source.by_digit) for image in images)


def test_split_depends_on_the_seed_alone():
    assert split_sources(5) == split_sources(5)
    assert split_sources(5) != split_sources(6)


def test_ink_is_the_handwriting_scaled_to_one():
    assert np.array_equal(ink(7), load_digits().images[7].astype(np.float32) / 16)
