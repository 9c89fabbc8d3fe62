"""A finished run made up by the contract: every artifact the report reads, with real tars and a known truth."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from pipeline.artifact import Artifact, ArtifactWriter, Counts, Manifest
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.progress import Reporter
from pipeline.stage import StageContext
from pipeline.storage import Storage
from stages.kernels.scale import batch_scales
from stages.kernels.uid import bucket_of, to_hex, to_records
from stages.report.config import ReportConfig
from stages.report.stage import ReportStage
from tests.artifacts import listed

HOSTILE = '<script>alert("x")</script> & <b>bold</b>'
COLOURS = ("crimson", "seagreen", "royalblue", "orange", "purple", "black")


@dataclass(frozen=True)
class Run:
    """The made-up run and what is true about it, sample by sample in uid order."""

    root: Path
    inputs: dict[str, Artifact]
    hi: np.ndarray
    lo: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    kept: np.ndarray
    mismatched: np.ndarray
    clean: np.ndarray
    trusted: np.ndarray
    means: dict[str, np.ndarray]
    """By source: mean value on the scale that is compared, NaN where unscored."""

    @property
    def uids(self) -> list[str]:
        return to_hex(self.hi, self.lo).to_pylist()

    @property
    def truth(self) -> Path:
        return self.root / "truth.parquet"

    def context(self, root: Path, *, truth: bool = True, **without) -> StageContext:
        external = {"tars": listed(self.root / "pool_shards", ".tar")}
        if truth:
            external["truth"] = listed(self.truth)
        reporter = Reporter()
        return StageContext(
            inputs={role: artifact for role, artifact in self.inputs.items() if role not in without.get("drop", ())},
            external=external,
            output=ArtifactWriter(str(root), Storage(), overwrite=True),
            storage=Storage(),
            engine=Engine(ClusterConfig(executor="in_process"), reporter),
            reporter=reporter,
            seed=7,
        )

    def stage(self, **config) -> ReportStage:
        return ReportStage(ReportConfig(**config), pool_path=str(self.root / "pool_shards"))


def make_run(root: Path, n: int = 600, *, bits: int = 2, visits: int = 3, num_shards: int = 6, seed: int = 0) -> Run:
    """A pool with 25 % mismatched captions, three selectors that see them more or less, and what follows."""
    rng = np.random.default_rng(seed)
    hi, lo = _uids(n, rng)
    mismatched = rng.random(n) < 0.25
    clean = ~mismatched & (rng.random(n) > 0.15)
    trusted = clean & (rng.random(n) < 0.15)
    made = {}
    writer = _Writer(root, made)
    shard, offset = _pool(writer, root / "pool_shards", hi, lo, mismatched, bits, num_shards, rng)
    means = _scores(writer, hi, lo, mismatched, bits, visits, rng)
    kept = _decide(writer, hi, lo, bits, means, rng)
    _trainings(writer, visits, rng)
    _evaluation(writer, visits)
    _truth(root, hi, lo, mismatched, clean, trusted)
    return Run(root, made, hi, lo, shard, offset, kept, mismatched, clean, trusted, means)


@dataclass
class _Writer:
    root: Path
    made: dict[str, Artifact]

    def handle(self, name: str) -> ArtifactWriter:
        return ArtifactWriter(str(self.root / "store" / name), Storage())

    def commit(self, name: str, files, summary, counts: Counts | None = None) -> None:
        seconds = {"pool": 3.1, "scores/mimic": 2.2, "training/mimic": 74.0, "training/base": 41.5}.get(name, 0.8)
        versions = {"python": "3.11.9", "gradsieve": "0.1.0"}
        made_by = {"seconds": seconds, "versions": versions}
        manifest = Manifest(name, "ab" * 32, {}, tuple(files), summary, counts, made_by)
        root = str(self.root / "store" / name)
        self.made[name] = Artifact(root, Manifest.from_json(manifest.to_json(), root), Storage())

    def buckets(self, name: str, table: pa.Table, bits: int, folder: str = "") -> list:
        bucket = bucket_of(table["uid_hi"].to_numpy(), bits)
        prefix = f"{folder}/" if folder else ""
        return [
            self.handle(name).put_table(f"{prefix}bucket-{b:05d}.parquet", table.filter(pa.array(bucket == b)))
            for b in range(1 << bits)
        ]


def _uids(n, rng):
    hi = rng.integers(0, 1 << 63, n, dtype=np.uint64) * np.uint64(2) + rng.integers(0, 2, n, dtype=np.uint64)
    lo = rng.integers(0, 1 << 63, n, dtype=np.uint64)
    order = np.lexsort((lo, hi))
    return hi[order], lo[order]


def _caption(i: int, mismatched: bool) -> str:
    if i % 50 == 0:
        return HOSTILE
    colour = COLOURS[(i + 1 if mismatched else i) % len(COLOURS)]
    return f"a handwritten {i % 10} in {colour} on plain paper, number {i}"


def _jpeg(i: int) -> bytes:
    size = (160, 120) if i % 3 else (90, 200)
    image = Image.new("RGB", size, (240, 240 - i % 40, 225))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 20, size[0] - 20, size[1] - 20), outline=COLOURS[i % len(COLOURS)], width=8)
    draw.text((size[0] / 2 - 3, size[1] / 2 - 6), str(i % 10), fill=COLOURS[i % len(COLOURS)])
    sink = io.BytesIO()
    image.save(sink, "JPEG")
    return sink.getvalue()


def _pool(writer, folder, hi, lo, mismatched, bits, num_shards, rng):
    """Tars in which samples lie in an order of their own, and the index over them."""
    n = len(hi)
    folder.mkdir(parents=True)
    shard, offset, length = np.zeros(n, np.uint32), np.zeros(n, np.uint64), np.zeros(n, np.uint64)
    order = rng.permutation(n)
    uids = to_hex(hi, lo).to_pylist()
    keys = [""] * n
    for s, rows in enumerate(np.array_split(order, num_shards)):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for place, i in enumerate(rows.tolist()):
                begin = sink.tell()
                keys[i] = f"{s:05d}{place:04d}"
                caption = _caption(i, bool(mismatched[i]))
                image = _jpeg(i) if i % 77 else b"\xff\xd8 not a picture"
                parts = {"jpg": image, "json": f'{{"uid": "{uids[i]}"}}'.encode(), "txt": caption.encode()}
                for ending, data in parts.items():
                    info = tarfile.TarInfo(f"{keys[i]}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                shard[i], offset[i], length[i] = s, begin, sink.tell() - begin
        (folder / f"{s:08d}.tar").write_bytes(sink.getvalue())
    columns = {"uid_hi": hi, "uid_lo": lo, "shard": shard, "offset": offset, "length": length, "key": keys}
    extra = {name: np.full(n, 5, np.uint32) for name in ("text_len", "words", "width", "height")}
    table = pa.table({**columns, "image_ext": ["jpg"] * n, **extra, "bytes": np.full(n, 99, np.uint64)})
    files = writer.buckets("pool", table, bits, "index")
    by_place = np.lexsort((offset, shard))
    ordered = pa.table({name: columns[name] for name in ("uid_hi", "uid_lo", "shard", "offset", "length")})
    files.append(writer.handle("pool").put_table("order/part-00000.parquet", ordered.take(by_place)))
    seen = np.bincount(shard, minlength=num_shards)
    lost = pa.table(
        {
            "shard": np.array([1, 1, 4], np.uint32),
            "offset": np.array([512, 4096, 0], np.uint64),
            "member": ["000010007.jpg", "000010011.jpg", "000040000.jpg"],
            "uid": pa.array(["f" * 32, None, "0" * 31 + "1"], pa.string()),
            "reason": ["truncated_image", "no_caption", "truncated_image"],
            "detail": ["image file is truncated (12 bytes not processed)", "", "cannot identify image"],
        }
    )
    files.append(writer.handle("pool").put_table("quarantine.parquet", lost))
    shards = pa.table(
        {
            "shard": np.arange(num_shards, dtype=np.uint32),
            "path": [f"{s:08d}.tar" for s in range(num_shards)],
            "seen": (seen + np.bincount([1, 1, 4], minlength=num_shards)).astype(np.uint32),
        }
    )
    files.append(writer.handle("pool").put_table("shards.parquet", shards))
    reasons = {"truncated_image": 2, "no_caption": 1}
    summary = {
        "samples": n + 3, "usable": n, "quarantined": 3, "quarantine_reasons": reasons, "missing": 11,
        "normalised": {}, "bucket_bits": bits, "metadata_columns": {},
    }  # fmt: skip
    writer.commit("pool", files, summary)
    return shard, offset


def _scores(writer, hi, lo, mismatched, bits, visits, rng):
    n = len(hi)
    means = {}
    for name, strength, batched in (("mimic", 1.2, True), ("loss", 1.8, True), ("clip_score", 1.0, False)):
        number = visits if batched else 1
        tables, ranks = [], []
        for visit in range(number):
            score = (rng.normal(0, 1, n) - strength * mismatched).astype(np.float32) * np.float32(0.01 * (visit + 1))
            step = (rng.permutation(n) // 64 + visit * 100).astype(np.int32)
            columns = {"uid_hi": hi, "uid_lo": lo, "visit": np.full(n, visit, np.uint16)}
            if batched:
                rank, z = batch_scales(step, score)
                columns |= {"step": step, "score": score, "rank": rank, "z": z}
                ranks.append(rank.astype(np.float64))
            else:
                score = np.round(score, 2)  # ties
                columns |= {"step": np.full(n, -1, np.int32), "score": score}
                ranks.append(score.astype(np.float64))
            tables.append(pa.table(columns))
        table = pa.concat_tables(tables)
        scored = np.arange(n) % 10 != 3 if name == "clip_score" else np.ones(n, bool)
        order = np.lexsort(tuple(table[c].to_numpy() for c in ("visit", "uid_lo", "uid_hi")))
        table = table.take(order).filter(pa.array(np.repeat(scored, number)))
        means[name] = np.where(scored, np.mean(ranks, axis=0).astype(np.float32), np.nan).astype(np.float32)
        summary = {
            "selector": name, "visits": number, "rows": table.num_rows, "scored": int(scored.sum()),
            "bucket_bits": bits, "batched": batched,
        }  # fmt: skip
        writer.commit(f"scores/{name}", writer.buckets(f"scores/{name}", table, bits), summary)
    return means


def _decide(writer, hi, lo, bits, means, rng):
    """Votes, decisions by a majority, the best 30 % kept, and their shards."""
    n = len(hi)
    filled = {name: np.nan_to_num(values, nan=np.nanmin(values)) for name, values in means.items()}
    ballots = {f"{name}__0": (values > np.quantile(values, 0.7)).astype(np.int8) for name, values in filled.items()}
    votes = pa.table({"uid_hi": hi, "uid_lo": lo, **ballots})
    voters = [{"name": name, "selector": name[:-3], "visit": 0, "method": "top_fraction"} for name in ballots]
    writer.commit("votes", writer.buckets("votes", votes, bits), {"voters": voters, "rows": n, "bucket_bits": bits})
    p_keep = (np.mean(list(ballots.values()), axis=0) * 0.8 + 0.1).astype(np.float32)
    means["p_keep"] = p_keep
    decisions = pa.table({"uid_hi": hi, "uid_lo": lo, "p_keep": p_keep, "pattern": np.zeros(n, np.uint64)})
    diagnosed = [
        {"name": name, "coverage": 1.0, "overlap": 1.0, "conflict": 0.3, "keep_rate": 0.3, "accuracy": 0.6 + 0.1 * i}
        for i, name in enumerate(ballots)
    ]
    summary = {
        "method": "label_model", "prior": 0.3, "voters": diagnosed, "final_loss": 0.0123, "retention": 0.31,
        "rows": n, "patterns": 8, "bucket_bits": bits,
    }  # fmt: skip
    writer.commit("decisions", writer.buckets("decisions", decisions, bits), summary)
    kept = np.zeros(n, bool)
    kept[np.lexsort((-filled["mimic"], -p_keep))[: int(0.3 * n)]] = True
    unscored = ~kept & (rng.random(n) < 0.02)
    reason = np.where(kept, "kept", np.where(unscored, "unscored", "not in the top 0.3 of pool by p_keep"))
    fates = pa.table({"uid_hi": hi, "uid_lo": lo, "reason": pa.array(reason.tolist(), pa.string())})
    ids = io.BytesIO()
    np.save(ids, to_records(hi[kept], lo[kept]))
    files = [*writer.buckets("subset", fates, bits, "reasons")]
    files.append(writer.handle("subset").put_bytes("sample_ids.npy", ids.getvalue(), rows=int(kept.sum())))
    dropped = {"not in the top 0.3 of pool by p_keep": int((~kept & ~unscored).sum()), "unscored": int(unscored.sum())}
    rule_text = "top 0.3 of pool by p_keep"
    writer.commit("subset", files, {"kept": int(kept.sum()), "dropped": dropped, "rule_text": rule_text})
    sizes = {f"{i:08d}.tar": len(part) for i, part in enumerate(np.array_split(np.arange(kept.sum()), 4))}
    entry = writer.handle("shards").put_json("sizes.json", sizes)
    writer.commit("shards", [entry], {"shards": 4, "samples": int(kept.sum()), "bytes": 1234})
    return kept


def _trainings(writer, visits, rng):
    for name, method in (("training/mimic", "mimic"), ("training/base", "uniform")):
        steps = np.arange(120)
        falling = 3.5 * np.exp(-steps / 50) + 1 + rng.normal(0, 0.05, len(steps))
        scored = method == "mimic"
        column = {True: lambda values: pa.array(values), False: lambda values: pa.nulls(len(values), pa.float64())}
        history = pa.table(
            {
                "step": steps.astype(np.int32),
                "epoch": (steps // 40).astype(np.int32),
                "samples_seen": steps * 64,
                "loss": falling,
                "learning_rate": 5e-4 * np.minimum(1, steps / 20),
                "logit_scale": 14 + steps / 40,
                "effective_batch": column[scored](0.9 + rng.normal(0, 0.004, len(steps))),
                "temperature": column[scored](0.01 + steps / 1e4),
                "direction_norm": column[scored](6 - steps / 60),
                "score_q10": column[scored](-0.02 + rng.normal(0, 0.002, len(steps))),
                "score_q50": column[scored](rng.normal(0, 0.002, len(steps))),
                "score_q90": column[scored](0.02 + rng.normal(0, 0.002, len(steps))),
            }
        )
        checks = [{"step": 40 * e, "epoch": e, "spearman": 0.4, "samples": 1024} for e in range(3)] if scored else []
        files = [writer.handle(name).put_table("history.parquet", history)]
        files.append(writer.handle(name).put_json("checks.json", checks))
        summary = {
            "method": method, "epochs": 3, "steps": 120, "batch_size": 64, "world_size": 1, "lanes": 4,
            "samples_seen": 7680, "mimicked": ["visual.transformer.resblocks.3.mlp.c_proj.weight"] if scored else [],
            "init": "training/base" if scored else None,
        }  # fmt: skip
        writer.commit(name, files, summary)
    check = {"spearman": 0.42, "samples": 1024, "verdict": "informative", "theta_0_loss": 2.1, "theta_ref_loss": 1.7}
    entry = writer.handle("reference").put_json("check.json", check)
    writer.commit("reference", [entry], {"source": "train", "parameters": 1_400_000})


def _evaluation(writer, visits):
    results = [
        {
            "model": model,
            "epoch": epoch,
            "dataset": "digits",
            "metric": metric,
            "value": value + 0.06 * (5 if epoch is None else epoch),
        }
        for model, epochs, value in (
            ("mimic", (0, 1, 2, None), 0.4),
            ("base", (0, 1, None), 0.35),
            ("reference", (None,), 0.25),
        )
        for epoch in epochs
        for metric in ("acc1", "acc5")
    ]
    entry = writer.handle("evaluation").put_json("results.json", results)
    writer.commit(
        "evaluation",
        [entry],
        {"main_metric": {"mimic": {"digits": 0.7}}, "data_sets": {"digits": {"kind": "c", "main_metric": "acc1"}}},
    )


def _truth(root, hi, lo, mismatched, clean, trusted):
    """Rows in an order of their own, quarantined samples among them."""
    order = np.random.default_rng(1).permutation(len(hi))
    uids = to_hex(hi, lo).to_pylist()
    rows = [
        {
            "uid": uids[i],
            "ills": ["mismatched"] if mismatched[i] else [] if clean[i] else ["short_caption"],
            "mismatched": bool(mismatched[i]),
            "clean": bool(clean[i]),
            "trusted": bool(trusted[i]),
            "true_caption": f"true caption of {i}",
        }
        for i in order.tolist()
    ]
    lost = {"ills": ["truncated_image"], "mismatched": False, "clean": False, "trusted": False, "true_caption": "x"}
    table = pa.Table.from_pylist([{"uid": "f" * 32, **lost}, *rows])
    pq.write_table(table, root / "truth.parquet", row_group_size=100)
