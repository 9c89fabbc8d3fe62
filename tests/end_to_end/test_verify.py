"""`gradsieve verify`: a whole run is whole, wherever it lies; any damage to any kind of file is found."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.artifact import Manifest, canonical_json, sha256_hex
from pipeline.cli.app import main
from pipeline.progress import Reporter
from pipeline.storage import Storage
from pipeline.verify import Verdict, verify

pytestmark = pytest.mark.slow


def _verify(run: Path) -> Verdict:
    return verify(str(run), Storage(), Reporter())


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, elsewhere; of hard links, so whoever changes a file must `_write` it anew."""
    return Path(shutil.copytree(finished, tmp_path / "copied run", copy_function=os.link))


def _write(path: Path, data: bytes) -> None:
    """Put a new file in the place of a linked one."""
    path.unlink()
    path.write_bytes(data)


def test_copied_run_verifies_itself(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = _verify(copy)
    assert verdict.differences == []
    assert verdict.orphans == []
    assert verdict.num_artifacts == 15
    assert verdict.num_files > 50
    with pytest.raises(SystemExit) as leave:
        main(["verify", str(copy)])
    assert leave.value.code == 0
    assert "the run is whole" in capsys.readouterr().out


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    _write(path, bytes(data))


def _remove(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    _write(path, path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [_flip, _remove, _cut])
@pytest.mark.parametrize(
    "pattern",
    [
        "subset/sample_ids.npy",
        "subset/reasons/*.parquet",
        "shards/00000001.tar",
        "shards/*_stats.json",
        "shards/sizes.json",
        "evaluation/eval_results.jsonl",
        "report/index.html",
        "report/summary.json",
        "manifests/shards.json",
        "manifests/subset.json",
        "store/pool/*/index/*.parquet",
        "store/pool/*/order/*.parquet",
        "store/pool/*/shards.parquet",
        "store/pool/*/quarantine.parquet",
        "store/pool/*/manifest.json",
        "store/training/mimic/*/model/open_clip_model.safetensors",
        "store/training/mimic/*/ledger/*/*.parquet",
        "store/training/mimic/*/history.parquet",
        "store/reference/*/check.json",
        "store/scores/mimic/*/bucket-00000.parquet",
        "store/votes/*/bucket-00000.parquet",
        "store/decisions/*/label_model.json",
    ],
)
def test_damage_to_any_kind_of_file_is_found_and_named(
    copy: Path, pattern: str, damage: Callable[[Path], None]
) -> None:
    path = min(copy.glob(pattern))
    damage(path)
    found = _verify(copy).differences
    assert found
    assert any(difference.where == str(path) for difference in found), found


def test_every_listed_file_is_read(copy: Path) -> None:
    """Flip one byte in each file of the run in turn that a manifest lists: each one is found."""
    for manifest_path in [*copy.glob("store/**/manifest.json"), *copy.glob("manifests/*.json")]:
        manifest = Manifest.from_json(manifest_path.read_bytes(), str(manifest_path))
        root = manifest_path.parent if manifest_path.name == "manifest.json" else copy / manifest.artifact
        for entry in manifest.files:
            if entry.bytes:
                _flip(root / entry.path)
    verdict = _verify(copy)
    assert len({difference.where for difference in verdict.differences}) == sum(
        1
        for path in [*copy.glob("store/**/manifest.json"), *copy.glob("manifests/*.json")]
        for entry in Manifest.from_json(path.read_bytes(), "").files
        if entry.bytes
    )


@pytest.mark.parametrize("name", ["shards/00000099.tar", "subset/notes.txt", "report/old/index.html"])
def test_file_added_to_a_deliverable_is_found(copy: Path, name: str) -> None:
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_bytes(b"stray")
    (found,) = _verify(copy).differences
    assert found.where == str(copy / name)
    assert "no manifest lists" in found.what


def test_file_added_to_the_store_is_an_orphan_and_no_difference(copy: Path) -> None:
    stray = next(copy.glob("store/votes/*")) / "bucket-00000-zombie.parquet"
    stray.write_bytes(b"left by a run that died")
    verdict = _verify(copy)
    assert verdict.differences == []
    assert verdict.orphans == [str(stray)]


def _reseal(copy: Path, artifact: str, path: str, **summary: object) -> None:
    """Write a manifest that lists a changed file as it now is: only the content can give it away."""
    manifest_path = copy / "manifests" / f"{artifact}.json"
    body = json.loads(manifest_path.read_bytes())
    data = (copy / artifact / path).read_bytes()
    for entry in body["files"]:
        if entry["path"] == path:
            entry.update({"bytes": len(data), "sha256": sha256_hex(data)})
    body["summary"].update(summary)
    body.pop("digest")
    files = sorted((f["path"], f["rows"], f["bytes"], f["sha256"]) for f in body["files"] if not f["volatile"])
    body["content"] = sha256_hex(canonical_json([body["format"], artifact, files, body["summary"]]))
    _write(manifest_path, canonical_json({**body, "digest": sha256_hex(canonical_json(body))}))


def test_forged_subset_with_valid_manifests_is_found_by_its_content(copy: Path) -> None:
    """A kept uid swapped for a dropped one, every digest mended: counts and files agree, the samples do not."""
    ids = np.load(copy / "subset/sample_ids.npy")
    reasons = pl.concat(pl.read_parquet(path) for path in (copy / "subset/reasons").glob("*.parquet"))
    dropped = reasons.filter(pl.col("reason") != "kept").row(0)
    ids[0] = dropped[:2]
    buffer = io.BytesIO()
    np.save(buffer, np.sort(ids))
    _write(copy / "subset/sample_ids.npy", buffer.getvalue())
    _reseal(copy, "subset", "sample_ids.npy")
    what = " ".join(difference.what for difference in _verify(copy).differences)
    assert "whose reason is `kept`" in what or "made from another" in what


def test_shard_that_lost_a_sample_is_found_though_its_digest_is_right(copy: Path) -> None:
    first = (copy / "shards/00000000.tar").read_bytes()
    _write(copy / "shards/00000001.tar", first)
    _reseal(copy, "shards", "00000001.tar")
    found = [difference for difference in _verify(copy).differences if difference.artifact == "shards"]
    assert any("stand twice" in difference.what and "are in no tar" in difference.what for difference in found)


def test_counts_that_do_not_add_up_are_found(copy: Path) -> None:
    path = copy / "manifests/subset.json"
    body = json.loads(path.read_bytes())
    body["counts"]["out"] += 1
    body.pop("digest")
    _write(path, canonical_json({**body, "digest": sha256_hex(canonical_json(body))}))
    assert any("unaccounted" in difference.what for difference in _verify(copy).differences)


def test_artifact_of_another_run_in_its_place_is_found(copy: Path) -> None:
    """Valid in itself, but not what the later stages were made from."""
    _reseal(copy, "subset", "sample_ids.npy", rule="another rule")
    found = _verify(copy).differences
    assert {difference.artifact for difference in found} == {"shards", "report"}
    assert all("made from another `subset`" in difference.what for difference in found)


def test_unfinished_run_is_told_with_exit_code_1(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((copy / "run.json").read_bytes())
    record["stages"]["shards"] = {"state": "running"}
    _write(copy / "run.json", json.dumps(record).encode())
    with pytest.raises(SystemExit) as leave:
        main(["verify", str(copy)])
    assert leave.value.code == 1
    shown = capsys.readouterr().err
    assert "shards: the stage is not finished (running)" in shown
    assert "Traceback" not in shown


def test_half_replaced_deliverable_is_found(copy: Path) -> None:
    _write(copy / "manifests/shards.json", b'{"replacing":["00000000.tar"],"with":"x"}')
    (found,) = [difference for difference in _verify(copy).differences if difference.artifact == "shards"]
    assert "being replaced" in found.what
