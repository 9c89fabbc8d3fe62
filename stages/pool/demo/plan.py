"""Decide what each sample of the pool is: its picture, its caption, and what is wrong with it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stages.pool.demo.captions import describe, lengthen, shorten
from stages.pool.demo.rates import IllRates
from stages.pool.demo.render import Shot
from stages.pool.demo.sample import Sample, stored_size
from stages.pool.demo.scene import draw_scene
from stages.pool.demo.sources import Source

MAX_TRUSTED = 1024
LOST_BY_TRUNCATION = 3
"""Samples at the end of the truncated tar: the first is cut through, the others are gone."""
_FIRST_ILL = 4  # the first few samples are always clean, so that every near-duplicate has an earlier original


@dataclass(frozen=True)
class Plan:
    """All samples of the pool in the order in which they are written."""

    samples: tuple[Sample, ...]
    missing: tuple[Sample, ...]
    """Rows of the metadata that were never downloaded."""
    samples_per_shard: int
    truncated_shard: int

    @property
    def num_shards(self) -> int:
        """Shards, the last one possibly shorter."""
        return -(-len(self.samples) // self.samples_per_shard)

    def shard(self, index: int) -> tuple[Sample, ...]:
        """Samples of one shard."""
        return self.samples[index * self.samples_per_shard : (index + 1) * self.samples_per_shard]


def plan_pool(source: Source, num_samples: int, seed: int, rates: IllRates) -> Plan:
    """Plan a pool; the same arguments give the same plan."""
    counts = rates.counts(num_samples)
    num_missing = counts.pop("missing")
    rng = np.random.default_rng([seed, 1])
    order = _FIRST_ILL + rng.permutation(num_samples - _FIRST_ILL)
    cuts = np.cumsum(list(counts.values()))
    of_ill = {name: np.sort(part) for name, part in zip(counts, np.split(order, cuts)[:-1], strict=True)}
    plain = [_healthy(source, seed, index) for index in range(num_samples + num_missing)]
    samples, missing = plain[:num_samples], plain[num_samples:]

    for name in ("short_caption", "long_caption", "tiny", "extreme_aspect", "truncated_image", "no_caption"):
        for index in of_ill[name]:
            samples[index] = _spoil(samples[index], name, np.random.default_rng([seed, 3, index]))
    clean = np.setdiff1d(np.arange(num_samples), order[: cuts[-1]])
    for index in of_ill["near_duplicate"]:
        origin = int(rng.choice(clean[clean < index]))
        samples[index] = _repeat(samples[index], samples[origin], np.random.default_rng([seed, 3, index]))
    _exchange_captions(samples, of_ill["mismatched"], rng)

    per_shard = min(512, max(16, num_samples // 8))
    truncated = _truncate_a_tar(samples, per_shard, rng)
    clean = np.array([index for index in clean if not samples[index].ills])
    first, second = (int(index) for index in np.sort(rng.choice(clean, 2, replace=False)))
    samples[second] = replace(samples[second], uid=samples[first].uid, ills=("duplicate_uid",))
    trustable = clean[(clean != first) & (clean != second)]
    num_trusted = min(MAX_TRUSTED, num_samples // 8, len(trustable))
    for index in rng.choice(trustable, num_trusted, replace=False):
        samples[index] = replace(samples[index], trusted=True)
    return Plan(tuple(samples), tuple(missing), per_shard, truncated)


def _healthy(source: Source, seed: int, index: int) -> Sample:
    rng = np.random.default_rng([seed, 2, index])
    scene = draw_scene(source, rng)
    width, height = _original_size(rng, scene.aspect, 210, 1400)
    caption = describe(scene, rng)
    shot = Shot(*stored_size(width, height), quality=int(rng.integers(80, 95)))
    return Sample(rng.bytes(16).hex(), scene, shot, width, height, caption, caption)


def _original_size(rng: np.random.Generator, aspect: float, low: int, high: int) -> tuple[int, int]:
    """Width and height with a shorter side between `low` and `high`, small ones more often."""
    short = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return (round(short * aspect), round(short)) if aspect >= 1 else (round(short), round(short / aspect))


def _spoil(sample: Sample, ill: str, rng: np.random.Generator) -> Sample:
    spoilt = replace(sample, ills=(ill,))
    if ill == "short_caption":
        return replace(spoilt, caption=shorten(sample.scene, rng))
    if ill == "long_caption":
        return replace(spoilt, caption=lengthen(sample.caption, rng))
    if ill == "tiny":
        size = _original_size(rng, sample.scene.aspect, 24, 190)
    elif ill == "extreme_aspect":
        aspect = float(rng.uniform(3.2, 6.0)) ** (1 if rng.random() < 0.7 else -1)
        size = _original_size(rng, aspect, 210, 600)
    else:
        return spoilt
    shot = replace(sample.shot, width=stored_size(*size)[0], height=stored_size(*size)[1])
    return replace(spoilt, shot=shot, original_width=size[0], original_height=size[1])


def _repeat(sample: Sample, origin: Sample, rng: np.random.Generator) -> Sample:
    """The origin's picture, stored another way, under the sample's uid."""
    width, height = _original_size(rng, origin.scene.aspect, 210, 1400)
    shot = Shot(
        *stored_size(width, height),
        quality=int(rng.integers(55, 80)),
        brightness=float(rng.uniform(0.88, 1.12)),
        crop=float(rng.uniform(0.01, 0.04)),
    )
    caption = origin.caption if rng.random() < 0.5 else describe(origin.scene, rng)
    return replace(
        sample,
        scene=origin.scene,
        shot=shot,
        original_width=width,
        original_height=height,
        caption=caption,
        true_caption=caption,
        ills=("near_duplicate",),
        duplicate_of=origin.uid,
    )


def _exchange_captions(samples: list[Sample], chosen: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Deal the captions of the chosen samples out anew: each gets one of a picture with other digits."""
    donors = _donors([samples[index].scene.digits for index in chosen], rng)
    captions = [samples[index].true_caption for index in chosen]
    for index, donor in zip(chosen, donors, strict=True):
        samples[index] = replace(samples[index], caption=captions[donor], ills=("mismatched",))


def _donors(contents: Sequence[tuple[int, ...]], rng: np.random.Generator) -> NDArray[np.int64]:
    """A permutation that gives nobody equal content; random swaps until none is left.

    Raises:
        ValueError: no such permutation was found; more than half share one content.
    """
    donors = rng.permutation(len(contents))
    for _ in range(100):
        clashes = [i for i, donor in enumerate(donors) if contents[i] == contents[donor]]
        if not clashes:
            return donors
        for clash in clashes:
            other = int(rng.integers(len(contents)))
            donors[[clash, other]] = donors[[other, clash]]
    raise ValueError(f"captions of {len(contents)} samples cannot be exchanged: too many show the same digits")


def _truncate_a_tar(samples: list[Sample], per_shard: int, rng: np.random.Generator) -> int:
    """Choose the tar that is cut off, and mark the samples at its end."""
    shard = int(rng.integers(len(samples) // per_shard))
    end = (shard + 1) * per_shard
    for index in range(end - LOST_BY_TRUNCATION, end):
        samples[index] = replace(samples[index], ills=(*samples[index].ills, "truncated_tar"))
    return shard
