"""`gradsieve verify`: a whole run is whole, wherever it lies; any damage to any kind of file is found."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.artifact import Manifest, canonical_json, sha256_hex
from pipeline.cli.app import main
from pipeline.errors import RunError, UserError
from pipeline.progress import Reporter
from pipeline.run_record import read_record, sealed
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
    assert verdict.unlisted.orphans == []
    assert verdict.unchecked == []
    assert verdict.num_artifacts == 16
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


def _lengthen(path: Path) -> None:
    _write(path, path.read_bytes() + b"\0")


def _manifests(copy: Path) -> list[Path]:
    """Of all artifacts; entries, which no finished run needs, are private."""
    in_store = [path for path in copy.glob("store/**/manifest.json") if copy / "store/entries" not in path.parents]
    return [*in_store, *copy.glob("manifests/*.json")]


def _listed(copy: Path) -> list[Path]:
    """Every file that a manifest lists."""
    found = []
    for path in _manifests(copy):
        manifest = Manifest.from_json(path.read_bytes(), str(path))
        root = path.parent if path.name == "manifest.json" else copy / manifest.artifact
        found += [root / entry.path for entry in manifest.files]
    return found


KINDS = {
    "deliverables": {".npy", ".tar", ".json", ".jsonl", ".html", ".parquet"},
    "store": {".npy", ".parquet", ".json", ".safetensors"},
}
"""Endings of all files that a run has, so that a new kind is not left out of these tests unseen."""


def test_run_has_files_of_all_kinds(copy: Path) -> None:
    listed = _listed(copy)
    in_store = {path.suffix for path in listed if copy / "store" in path.parents}
    assert in_store == KINDS["store"]
    assert {path.suffix for path in listed if copy / "store" not in path.parents} == KINDS["deliverables"]


@pytest.mark.parametrize("damage", [_flip, _remove, _cut, _lengthen])
def test_damage_to_each_listed_file_is_found_and_named(copy: Path, damage: Callable[[Path], None]) -> None:
    """Every file of the run at once, each in a difference of its own."""
    listed = [path for path in _listed(copy) if damage in (_remove, _lengthen) or path.stat().st_size]
    for path in listed:
        damage(path)
    found = [difference.where for difference in _verify(copy).differences]
    assert sorted(found) == sorted(map(str, listed))


@pytest.mark.parametrize("damage", [_flip, _remove, _cut, _lengthen])
def test_damage_to_each_manifest_is_found_and_named(copy: Path, damage: Callable[[Path], None]) -> None:
    manifests = _manifests(copy)
    for path in manifests:
        damage(path)
    verdict = _verify(copy)
    assert sorted(difference.where for difference in verdict.differences) == sorted(map(str, manifests))
    assert verdict.num_artifacts == 0


def test_cut_record_is_refused_and_a_lost_one_is_no_run(copy: Path) -> None:
    _cut(copy / "run.json")
    with pytest.raises(RunError, match="record is damaged"):
        _verify(copy)
    _remove(copy / "run.json")
    with pytest.raises(UserError, match="no run here"):
        _verify(copy)


def test_files_added_to_deliverables_are_each_found(copy: Path) -> None:
    added = [
        copy / name
        for name in (
            "shards/00000099.tar",
            "shards/.hidden.tar",
            "subset/notes.txt",
            "subset/reasons/bucket-99999.parquet",
            "evaluation/models/other/eval_results.jsonl",
            "report/old/index.html",
        )
    ]
    for path in added:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"stray")
    found = _verify(copy).differences
    assert sorted(difference.where for difference in found) == sorted(map(str, added))
    assert {difference.what for difference in found} == {"a file that no manifest lists"}


def test_file_added_to_the_store_is_an_orphan_and_no_difference(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stray = next(copy.glob("store/votes/*")) / "bucket-00000-zombie.parquet"
    stray.write_bytes(b"left by a run that died")
    verdict = _verify(copy)
    assert verdict.differences == []
    assert verdict.unlisted.orphans == [str(stray)]
    with pytest.raises(SystemExit) as leave:
        main(["verify", str(copy)])
    assert leave.value.code == 0
    shown = capsys.readouterr().out
    assert f"orphan: {stray}" in shown
    assert "1 orphans" in shown


def _reseal(copy: Path, artifact: str, path: str, **summary: object) -> None:
    """Write a manifest that lists a changed file as it now is: only the content can give it away."""
    manifest_path = copy / "manifests" / f"{artifact}.json"
    body = json.loads(manifest_path.read_bytes())
    data = (copy / artifact / path).read_bytes()
    for entry in body["files"]:
        if entry["path"] == path:
            entry.update({"bytes": len(data), "sha256": sha256_hex(data)})
    body["summary"].update(summary)
    _seal(manifest_path, body)


def _seal(path: Path, body: dict[str, Any]) -> None:
    """Write a manifest with digests that are right."""
    body.pop("digest")
    files = sorted((f["path"], f["rows"], f["bytes"], f["sha256"]) for f in body["files"] if not f["volatile"])
    body["content"] = sha256_hex(canonical_json([body["format"], body["artifact"], files, body["summary"]]))
    _write(path, canonical_json({**body, "digest": sha256_hex(canonical_json(body))}))


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
    record = read_record(str(copy), Storage())
    record["stages"]["shards"] = {"state": "running"}
    _write(copy / "run.json", sealed(record))
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


def _excluding(copy: Path, *paths: Path) -> None:
    """Let the record say that the run had these lists of samples that must not be kept."""
    record = read_record(str(copy), Storage())
    record["config"]["select"]["exclude"] = [str(path) for path in paths]
    _write(copy / "run.json", sealed(record))


def test_kept_sample_on_an_exclude_list_is_found(copy: Path, tmp_path: Path) -> None:
    ids = np.load(copy / "subset/sample_ids.npy")
    (tmp_path / "harmless.txt").write_text("0\n1\n")
    (tmp_path / "takedown.txt").write_text("".join(f"{hi:016x}{lo:016x}\n" for hi, lo in ids[:3]))
    _excluding(copy, tmp_path / "harmless.txt")
    assert _verify(copy).differences == []
    _excluding(copy, tmp_path / "harmless.txt", tmp_path / "takedown.txt")
    (found,) = _verify(copy).differences
    assert found.artifact == "subset"
    assert "3 kept samples are on the exclude list" in found.what
    assert "takedown.txt" in found.what


def test_exclude_list_that_cannot_be_read_is_said_to_be_unchecked(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _excluding(copy, tmp_path / "gone.txt")
    verdict = _verify(copy)
    assert verdict.differences == []
    (unchecked,) = verdict.unchecked
    assert "gone.txt" in unchecked
    with pytest.raises(SystemExit) as leave:
        main(["verify", str(copy)])
    assert leave.value.code == 0
    assert f"not checked: {unchecked}" in capsys.readouterr().out


def test_table_that_lacks_a_bucket_is_a_difference_and_no_traceback(copy: Path) -> None:
    """Forged so that every digest is right."""
    (path,) = copy.glob("store/votes/*/manifest.json")
    body = json.loads(path.read_bytes())
    body["files"] = [entry for entry in body["files"] if "00000" not in entry["path"]]
    _seal(path, body)
    found = [difference.what for difference in _verify(copy).differences if difference.artifact == "votes"]
    assert any("does not hold what it must" in what and "bucket-00000.parquet" in what for what in found), found
