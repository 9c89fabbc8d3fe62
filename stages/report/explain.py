"""One sample's story, read from a run's finished artifacts: where it lies, each score, each vote, its fate."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from stages.kernels.buckets import bucket_path
from stages.kernels.uid import as_u64, bucket_of, parse_hex, positions, to_hex

_UID = ["uid_hi", "uid_lo"]
_PLACE = ["shard", "offset", "length", "key", "image_ext"]


@dataclass(frozen=True)
class Place:
    """Where a sample's bytes lie in the pool."""

    shard: str
    """Path relative to `pool.path`."""
    member: str
    """Its image's name in the tar."""
    offset: int
    length: int | None


@dataclass(frozen=True)
class Score:
    """One score of one visit."""

    selector: str
    visit: int
    score: float
    step: int
    rank: float | None
    """Place within its batch in (0, 1); None where scores belong to no batch."""
    percentile: float
    """Share of the pool's scores of that visit below it, ties counted half."""
    weight: float | None
    loss: float | None
    made_by: str | None = None
    """The pass that gave it, where the table comes from several: an earlier run's training, or score passes by it."""


@dataclass(frozen=True)
class Explanation:
    """All that a run knows of one sample."""

    uid: str
    quarantined: tuple[str, str] | None = None
    """(reason, detail) if it was quarantined."""
    place: Place | None = None
    scores: tuple[Score, ...] = ()
    votes: Mapping[str, int] = field(default_factory=dict)
    """By voter: 1 keep, 0 drop, -1 abstain."""
    decision: Mapping[str, Any] = field(default_factory=dict)
    """Columns of the decisions but the uid: p_keep, pattern, mean scores."""
    reason: str | None = None
    """`kept`, or why it was dropped; None if selection has not run."""
    output_shard: str | None = None
    """Name of the shard that holds it, and its place there: `00000003.tar, sample 17`."""


def explain(artifacts: Mapping[str, Artifact], uid_hex: str) -> Explanation:
    """Gather what finished artifacts say about one uid; memory bounded by a bucket.

    Args:
        artifacts: finished artifacts by name; those that are missing are left out of the story.
        uid_hex: up to 32 hexadecimal digits.

    Raises:
        UserError: not a uid, the pool is not indexed yet, or no such sample.
    """
    hi, lo, uid = _parse(uid_hex)
    if "pool" not in artifacts:
        raise UserError("the run has no pool index yet", next_step="run it at least `--until pool`")
    pool = artifacts["pool"]
    row = _row(pool, "index", hi, lo, [*_UID, *_PLACE])
    if row is None:
        return _quarantined(pool, uid, hi, lo)
    paths = _paths(pool)
    place = Place(paths[row["shard"]], f"{row['key']}.{row['image_ext']}", row["offset"], row["length"])
    scores = [
        score
        for name in sorted(artifacts, key=lambda name: (name != "scores/mimic", name))
        if name.startswith("scores/")
        for score in _scores(artifacts[name], name.split("/", 1)[1], hi, lo)
    ]
    votes = _row(artifacts["votes"], "", hi, lo, None) if "votes" in artifacts else None
    decision = _row(artifacts["decisions"], "", hi, lo, None) if "decisions" in artifacts else None
    fate = _row(artifacts["subset"], "reasons", hi, lo, None) if "subset" in artifacts else None
    kept = fate is not None and fate["reason"] == "kept"
    return Explanation(
        uid,
        place=place,
        scores=tuple(scores),
        votes={name: vote for name, vote in (votes or {}).items() if name not in _UID},
        decision={name: value for name, value in (decision or {}).items() if name not in _UID},
        reason=fate["reason"] if fate else None,
        output_shard=_output_shard(artifacts, row["shard"], row["offset"]) if kept and "shards" in artifacts else None,
    )


def _parse(uid_hex: str) -> tuple[np.uint64, np.uint64, str]:
    try:
        parsed = parse_hex([uid_hex.strip()])
    except ValueError:
        raise UserError("not a uid", expected="1 to 32 hexadecimal digits", found=repr(uid_hex)) from None
    return parsed.hi[0], parsed.lo[0], to_hex(parsed.hi, parsed.lo)[0].as_py()


def _paths(pool: Artifact) -> dict[int, str]:
    table = pool.read_table("shards.parquet", ["shard", "path"])
    return dict(zip(table["shard"].to_pylist(), table["path"].to_pylist(), strict=True))


def _row(
    artifact: Artifact, folder: str, hi: np.uint64, lo: np.uint64, columns: list[str] | None
) -> dict[str, Any] | None:
    """The row of a uid in a bucketed table of one row a uid."""
    num_buckets = len(artifact.files(f"{folder}/bucket-" if folder else "bucket-", ".parquet"))
    bucket = int(bucket_of(as_u64([hi]), num_buckets.bit_length() - 1)[0])
    table = artifact.read_table(bucket_path(bucket, folder), columns)
    found = int(positions(*_halves(table), as_u64([hi]), as_u64([lo]))[0])
    row: dict[str, Any] | None = table.slice(found, 1).to_pylist()[0] if found >= 0 else None
    return row


def _halves(table: pa.Table) -> tuple[Any, Any]:
    return table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy()


def _quarantined(pool: Artifact, uid: str, hi: np.uint64, lo: np.uint64) -> Explanation:
    """What quarantine says of a uid that is not usable, or an error with its nearest neighbour."""
    if pool.files("quarantine.parquet"):
        lost = pool.read_table("quarantine.parquet")
        rows = lost.filter(pc.equal(lost["uid"], uid)).to_pylist()
        if rows:
            first = rows[0]
            place = Place(_paths(pool)[first["shard"]], first["member"], first["offset"], None)
            return Explanation(uid, quarantined=(first["reason"], first["detail"]), place=place)
    usable, quarantined = pool.summary["usable"], pool.summary.get("quarantined", 0)
    raise UserError(
        "the pool has no such sample",
        expected=f"a uid among {usable:,} usable and {quarantined:,} quarantined samples",
        found=uid,
        next_step=f"the nearest uid is {near}" if (near := _nearest(pool, hi, lo)) else None,
    )


def _nearest(pool: Artifact, hi: np.uint64, lo: np.uint64) -> str | None:
    """The uid with the longest common beginning, within the same bucket."""
    bits = int(pool.summary["bucket_bits"])
    table = pool.read_table(bucket_path(int(bucket_of(as_u64([hi]), bits)[0]), "index"), _UID)
    own_hi, own_lo = _halves(table)
    if len(own_hi) == 0:
        return None
    behind = int(np.searchsorted(own_hi, hi)) + int(((own_hi == hi) & (own_lo < lo)).sum())
    neighbours = np.arange(max(0, behind - 1), min(len(own_hi), behind + 1))
    uids = to_hex(own_hi[neighbours], own_lo[neighbours]).to_pylist()
    wanted = (int(hi) << 64) | int(lo)
    nearest: str = min(uids, key=lambda uid: abs(int(uid, 16) - wanted))
    return nearest


def _scores(artifact: Artifact, selector: str, hi: np.uint64, lo: np.uint64) -> Iterator[Score]:
    """Every score of the sample, with its place among all of the same visit."""
    bucket = int(bucket_of(as_u64([hi]), int(artifact.summary["bucket_bits"]))[0])
    table = artifact.read_table(bucket_path(bucket))
    own = table.filter(pc.and_(pc.equal(table["uid_hi"], hi), pc.equal(table["uid_lo"], lo))).to_pylist()
    if not own:
        return
    below, ties, total = np.zeros(len(own)), np.zeros(len(own)), np.zeros(len(own))
    for part in artifact.tables("bucket-", ["visit", "score"]):
        visit, score = part["visit"].to_numpy(), part["score"].to_numpy()
        for place, row in enumerate(own):
            same = score[visit == row["visit"]]
            below[place] += (same < row["score"]).sum()
            ties[place] += (same == row["score"]).sum()
            total[place] += len(same)
    for place, row in enumerate(own):
        percentile = float((below[place] + ties[place] / 2) / total[place])
        optional = {name: row.get(name) for name in ("rank", "weight", "loss")}
        made_by = _pass_of(artifact, row["step"])
        yield Score(
            selector, row["visit"], row["score"], row["step"], percentile=percentile, made_by=made_by, **optional
        )


def _pass_of(artifact: Artifact, step: int) -> str | None:
    """What gave a score of a pool that grew."""
    passes = [each for each in artifact.summary.get("passes", ()) if each["first_step"] <= step]
    if not passes:
        return None
    kind = "a pass with stored weights" if passes[-1]["method"] == "score" else "training"
    return f"{kind}, {passes[-1]['training']}"


def _output_shard(artifacts: Mapping[str, Artifact], shard: int, offset: int) -> str | None:
    """Which output shard holds a kept sample: shards hold the kept ones in pool order, as many as `sizes.json` says."""
    pool, subset = artifacts["pool"], artifacts["subset"]
    ahead = 0
    for bucket in range(1 << int(pool.summary["bucket_bits"])):
        index = pool.read_table(bucket_path(bucket, "index"), [*_UID, "shard", "offset"])
        earlier = pc.or_(
            pc.less(index["shard"], shard),
            pc.and_(pc.equal(index["shard"], shard), pc.less(index["offset"], pa.scalar(offset, pa.uint64()))),
        )
        before = index.filter(earlier)
        fates = subset.read_table(bucket_path(bucket, "reasons"), [*_UID, "reason"])
        kept = fates.filter(pc.equal(fates["reason"].cast(pa.string()), "kept"))
        ahead += int((positions(*_halves(kept), *_halves(before)) >= 0).sum())
    sizes: Mapping[str, int] = artifacts["shards"].read_json("sizes.json")
    for name in sorted(sizes):
        if ahead < sizes[name]:
            return f"{name}, sample {ahead + 1} of {sizes[name]}"
        ahead -= sizes[name]
    return None
