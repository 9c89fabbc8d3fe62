"""Stage x moment: where the tiny run is ended in the kill matrix. Points are those of `pipeline.crash_points`."""

_CHECKPOINT = "*/store/training/mimic/*/checkpoints"

QUICK = {
    "pool-in-scan": "before */store/entries/pool/shards/*/manifest.json",
    "pool-between-parts": "after */store/pool/*/index/* 2",
    "pool-in-manifest-put": "staged */store/pool/*/manifest.json",
    "train-between-files-of-a-checkpoint": f"after {_CHECKPOINT}/step-000000010/weights-*",
    "train-between-files-and-manifest-of-a-checkpoint": f"before {_CHECKPOINT}/*/manifest-* 3",
    "train-in-ledger-write": "staged */store/training/mimic/*/ledger/* 2",
    "train-after-ledger-write": "after */store/training/mimic/*/ledger/* 3",
    "scores-between-buckets": "after */store/scores/mimic/*/bucket-* 2",
    "votes-before-manifest": "before */store/votes/*/manifest.json",
    "subset-between-claim-and-commit": "after */manifests/subset.json",
    "shards-between-tars": "after */shards/*.tar 3",
    "shards-before-commit": "before */manifests/shards.json 2",
}
"""A dozen, for every test run."""

_PARTS = {
    "pool": "*/store/pool/*/index/*",
    "pool entries": "*/store/entries/pool/shards/*/order-*",
    "subset_trusted": "*/store/subset_trusted/*/sample_ids.npy",
    "training/base": "*/store/training/base/*/checkpoints/*/optimizer-* 2",
    "training/tuned": "*/store/training/tuned/*/checkpoints/*/history-* 2",
    "reference": "*/store/reference/*/probe-*",
    "training/mimic": f"{_CHECKPOINT}/*/weights-* 4",
    "ledger": "*/store/training/mimic/*/ledger/* 4",
    "scores/mimic": "*/store/scores/mimic/*/bucket-* 3",
    "scores/loss": "*/store/scores/loss/*/bucket-* 3",
    "scores/clip_score": "*/store/scores/clip_score/*/bucket-*",
    "scores/reference_clip_score": "*/store/scores/reference_clip_score/*/bucket-*",
    "votes": "*/store/votes/* 2",
    "decisions": "*/store/decisions/*/bucket-* 2",
    "subset": "*/subset/sample_ids.npy",
    "shards": "*/shards/*.tar 2",
    "report": "*/report/*",
}
_MANIFESTS = {
    **{
        name: f"*/store/{name}/*/manifest.json"
        for name in ("pool", "subset_trusted", "training/base", "training/tuned", "reference", "training/mimic")
    },
    **{name: f"*/store/{name}/*/manifest.json" for name in ("scores/mimic", "scores/clip_score", "votes", "decisions")},
    "pool entries": "*/store/entries/pool/metadata/*/manifest.json",
    "clip score entries": "*/store/entries/scores/clip_score/*/manifest.json 2",
    "checkpoint": f"{_CHECKPOINT}/*/manifest-* 2",
    **{f"{name} claim": f"*/manifests/{name}.json" for name in ("subset", "shards", "report")},
    **{f"{name} commit": f"*/manifests/{name}.json 2" for name in ("subset", "shards", "report")},
    "record": "*/run.json 5",
}
FULL = {
    f"{name}, {kind}, {moment}": f"{moment} {glob}"
    for kind, globs in (("part", _PARTS), ("manifest", _MANIFESTS))
    for name, glob in globs.items()
    for moment in ("before", "staged", "after")
}
"""Every stage, its parts and its manifest, and three moments of each write."""
