import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch

from pipeline.artifact import ArtifactWriter, FileEntry
from pipeline.errors import RunError
from pipeline.storage import Storage
from stages.train.checkpoint import Checkpoint, CheckpointStore, dump_state, load_state


def store_in(root: Path) -> CheckpointStore:
    return CheckpointStore(ArtifactWriter(str(root), Storage()))


def put_ledger(root: Path, name: str) -> FileEntry:
    return ArtifactWriter(str(root), Storage()).put_bytes(f"ledger/{name}.parquet", name.encode())


def commit(root: Path, step: int, *, ledger: list[FileEntry] | None = None) -> Checkpoint:
    store = store_in(root)
    files = [store.put(step, f"rank-{rank:05d}", f"state {step} {rank}".encode()) for rank in range(2)]
    return store.commit(
        step=step, epoch=step // 4, batch=step % 4, world_size=2, files=files, ledger=ledger or [], facts={"loss": 0.5}
    )


def test_latest_without_any_is_none(tmp_path: Path) -> None:
    assert store_in(tmp_path).latest() is None


def test_latest_is_the_furthest_and_reads_back(tmp_path: Path) -> None:
    parts = [put_ledger(tmp_path, "one"), put_ledger(tmp_path, "two")]
    commit(tmp_path, 999_999, ledger=parts[:1])
    last = commit(tmp_path, 1_000_007, ledger=parts)
    commit(tmp_path, 6)
    found = store_in(tmp_path).latest()
    assert found == last
    assert (found.step, found.epoch, found.batch, found.world_size) == (1_000_007, 250_001, 3, 2)
    assert found.facts == {"loss": 0.5}
    assert found.ledger == tuple(parts)
    assert found.names() == ["rank-00000", "rank-00001"]
    assert store_in(tmp_path).read(found, "rank-00001") == b"state 1000007 1"


def test_files_without_manifest_are_no_checkpoint(tmp_path: Path) -> None:
    first = commit(tmp_path, 4)
    store_in(tmp_path).put(8, "rank-00000", b"x")
    assert store_in(tmp_path).latest() == first


@pytest.mark.parametrize("damage", ["truncate", "empty", "edit", "not_json", "other_format", "list"])
def test_damaged_manifest_is_passed_over(tmp_path: Path, damage: str) -> None:
    first = commit(tmp_path, 4)
    commit(tmp_path, 8)
    (manifest,) = tmp_path.glob("checkpoints/step-000000008/manifest-*.json")
    data = manifest.read_bytes()
    changed = {
        "truncate": data[: len(data) // 2],
        "empty": b"",
        "edit": data.replace(b'"batch":0', b'"batch":1'),
        "not_json": b"\xff\xfe",
        "other_format": json.dumps({**json.loads(data), "format": 99}).encode(),
        "list": b"[1]",
    }[damage]
    assert changed != data
    manifest.write_bytes(changed)
    assert store_in(tmp_path).latest() == first


@pytest.mark.parametrize("victim", ["file", "ledger"])
@pytest.mark.parametrize("damage", ["missing", "short"])
def test_checkpoint_whose_files_are_not_whole_is_passed_over(tmp_path: Path, victim: str, damage: str) -> None:
    first = commit(tmp_path, 4)
    last = commit(tmp_path, 8, ledger=[put_ledger(tmp_path, "one")])
    path = tmp_path / (last.files[1] if victim == "file" else last.ledger[0]).path
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    assert store_in(tmp_path).latest() == first


def test_second_commit_of_a_step_by_a_zombie_overwrites_nothing(tmp_path: Path) -> None:
    commit(tmp_path, 4)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    store = store_in(tmp_path)
    other = store.put(4, "rank-00000", b"other bytes")
    store.commit(step=4, epoch=1, batch=0, world_size=2, files=[other], ledger=[])
    assert all(path.read_bytes() == data for path, data in before.items())
    found = store.latest()
    assert found is not None
    assert found.step == 4
    assert store.latest() == found


def test_same_commit_twice_is_one_checkpoint(tmp_path: Path) -> None:
    assert commit(tmp_path, 4) == commit(tmp_path, 4)
    assert len(list(tmp_path.glob("checkpoints/step-000000004/manifest-*"))) == 1


def test_read_of_changed_bytes_is_an_error(tmp_path: Path) -> None:
    checkpoint = commit(tmp_path, 4)
    path = tmp_path / checkpoint.files[0].path
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(RunError, match="differs from its manifest"):
        store_in(tmp_path).read(checkpoint, "rank-00000")


def test_manifest_round_trip_keeps_everything(tmp_path: Path) -> None:
    checkpoint = dataclasses.replace(commit(tmp_path, 4), facts={"history": [1.5, None], "name": "é"})
    assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint


def test_state_round_trip_is_exact_and_equal_states_are_equal_bytes() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "step": 7}
    data = dump_state(state)
    back = load_state(data)
    assert data == dump_state(back)
    assert back["step"] == 7
    assert torch.equal(back["rng"], state["rng"])
    assert torch.equal(back["model"]["weight"], model.weight)
    assert torch.equal(back["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_state_with_code_in_it_is_not_run() -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return print, ("executed",)

    with pytest.raises(pickle.UnpicklingError):
        load_state(dump_state({"x": Trap()}))
