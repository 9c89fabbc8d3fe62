from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.errors import RunError, UserError
from pipeline.rates import RatesConfig
from pipeline.stage import Size, StageResult
from pipeline.storage import Storage
from stages.formats.sample import Sample
from stages.models.build import build_model, build_tokenizer
from stages.models.encode import normalise
from stages.models.weights import model_files
from stages.selectors import clip_encode
from stages.selectors.clip_score import ClipScoreConfig, ClipScoreSelector
from tests.artifacts import commit
from tests.counted_store import counted
from tests.stages.models.tiny import TINY
from tests.stages.selectors.score_tables import by_number, run
from tests.stages.train.tiny_pool import caption_of, colour_of, make_pool

COUNTS = [5, 7, 3]
SCORES = [0.25, None, -0.5, *(n / 16 for n in range(3, 15))]
METADATA = pa.table(
    {
        "clip_l14_similarity_score": pa.array(SCORES, pa.float32()),
        "halves": pa.array(SCORES, pa.float16()),
        "text": ["x"] * 15,
    }
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, str]:
    return make_pool(tmp_path_factory.mktemp("pool"), COUNTS, metadata=METADATA, group_rows=3)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("reference")
    writer = ArtifactWriter(str(root), Storage())
    files = model_files(build_model(TINY, seed=3), TINY)
    entries = tuple(writer.put_bytes(f"model/{name}", data) for name, data in files.items())
    return commit(root, "reference", StageResult(entries, {}))


def selector(pool_path: str = "", *, metadata: str | None = None, **fields: object) -> ClipScoreSelector:
    config = ClipScoreConfig(kind="clip_score", **fields)
    return ClipScoreSelector(config, name="clip", pool_path=pool_path, metadata=metadata)


def test_column_is_taken_where_it_is_not_null(pool: tuple[Artifact, str], tmp_path: Path) -> None:
    expected = {n: score for n, score in enumerate(SCORES) if score is not None}
    for column in ("clip_l14_similarity_score", "halves"):
        scores = run(selector(column=column), tmp_path / column, pool[0])
        assert by_number(scores) == expected
        assert scores.manifest.counts is not None
        assert scores.manifest.counts.dropped == {"no score": 1}


def test_nan_in_the_column_is_an_error_that_names_the_sample(tmp_path: Path) -> None:
    metadata = pa.table({"clip": pa.array([0.1, np.nan, *[0.2] * 13], pa.float32())})
    pool, _ = make_pool(tmp_path, COUNTS, metadata=metadata)
    with pytest.raises(UserError, match="column clip has values that cannot be ranked") as error:
        run(selector(column="clip"), tmp_path / "scores", pool)
    assert "0000000000000001" in str(error.value)


def test_unknown_column_is_refused_before_work_by_the_metadata(pool: tuple[Artifact, str], tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": ["0"], "clip_b32_similarity_score": [0.1]}), tmp_path / "m.parquet")
    with pytest.raises(UserError) as error:
        run(selector(column="clip_l14_similarity_score", metadata=str(tmp_path)), tmp_path / "scores", pool[0])
    assert "column(s) clip_l14_similarity_score" in str(error.value)
    assert "clip_b32_similarity_score" in str(error.value)


@pytest.mark.parametrize(("column", "message"), [("nothing", "does not have: nothing"), ("text", "cannot use")])
def test_column_that_the_pool_does_not_have_is_refused(
    pool: tuple[Artifact, str], tmp_path: Path, column: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(selector(column=column), tmp_path, pool[0])


def plain_scores() -> dict[int, float]:
    """Cosine of image and caption, one sample at a time, by open_clip alone."""
    model = build_model(TINY, seed=3).eval()
    tokenizer = build_tokenizer(TINY)
    scores = {}
    for number in range(sum(COUNTS)):
        pixels = torch.tensor(colour_of(number), dtype=torch.uint8)[:, None, None].expand(3, 16, 16)[None]
        with torch.no_grad():
            image = model.encode_image(normalise(pixels), normalize=True)
            text = model.encode_text(tokenizer([caption_of(number)]), normalize=True)
        scores[number] = float((image @ text.T).item())
    return scores


def count_samples(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples that are encoded from now on, by batch."""
    counts: list[int] = []
    whole = clip_encode._Encoder.similarity

    def counting(self: Any, samples: list[Sample]) -> Any:
        counts.append(len(samples))
        return whole(self, samples)

    monkeypatch.setattr(clip_encode._Encoder, "similarity", counting)
    return counts


@pytest.mark.parametrize("slice_rows", [2, 100])
def test_grown_pool_has_its_new_samples_encoded_alone_and_the_scores_of_a_run_from_scratch(
    reference: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_rows: int
) -> None:
    monkeypatch.setattr(clip_encode, "SLICE_ROWS", slice_rows)
    encoded = count_samples(monkeypatch)
    store = tmp_path / "store"
    for night, counts in enumerate(([5, 7], [5, 7, 3], [5, 7, 3, 0, 4])):
        pool, path = make_pool(tmp_path / f"pool-{night}", counts, parts=1 + night, bits=night)
        encoded.clear()
        with counted(monkeypatch) as counting:
            grown = run(
                selector(path, model="reference"), tmp_path / f"s-{night}", pool, store=store, reference=reference
            )
        opened = {f"{shard:08d}.tar" for shard in ((0, 1), (2,), (4,))[night]}
        assert counting.opened(Path(path)) == opened
        assert sum(encoded) == (12, 3, 4)[night]
        scratch = run(selector(path, model="reference"), tmp_path / f"scratch-{night}", pool, reference=reference)
        assert grown.manifest.content == scratch.manifest.content
        assert all((store / name / "manifest.json").exists() for name in grown.manifest.entries)


def test_other_model_or_other_pixels_are_encoded_again(
    pool: tuple[Artifact, str], reference: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    first = run(selector(pool[1], model="reference"), tmp_path / "first", pool[0], store=store, reference=reference)
    writer = ArtifactWriter(str(tmp_path / "reference"), Storage())
    files = [writer.put_bytes(f"model/{n}", data) for n, data in model_files(build_model(TINY, seed=4), TINY).items()]
    other = commit(tmp_path / "reference", "reference", StageResult(tuple(files), {}))
    encoded = count_samples(monkeypatch)
    changed = run(selector(pool[1], model="reference"), tmp_path / "other", pool[0], store=store, reference=other)
    assert sum(encoded) == sum(COUNTS)
    assert changed.manifest.content != first.manifest.content
    noisy, path = make_pool(tmp_path / "noisy", COUNTS, noise=True)
    run(selector(path, model="reference"), tmp_path / "pixels", noisy, store=store, reference=reference)
    assert sum(encoded) == 2 * sum(COUNTS)


def test_reference_that_was_only_checked_again_is_the_same_model(
    pool: tuple[Artifact, str], reference: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of a reference goes over the pool, and so changes with it; its weights do not."""
    store = tmp_path / "store"
    run(selector(pool[1], model="reference"), tmp_path / "first", pool[0], store=store, reference=reference)
    checked = replace(reference, manifest=replace(reference.manifest, summary={"checked": "anew"}))
    encoded = count_samples(monkeypatch)
    run(selector(pool[1], model="reference"), tmp_path / "again", pool[0], store=store, reference=checked)
    assert encoded == []


@pytest.mark.parametrize("slice_rows", [2, 100])
def test_reference_scores_every_sample_as_open_clip_does(
    pool: tuple[Artifact, str], reference: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_rows: int
) -> None:
    monkeypatch.setattr(clip_encode, "SLICE_ROWS", slice_rows)
    scores = run(selector(pool[1], model="reference"), tmp_path, pool[0], reference=reference)
    found = by_number(scores)
    expected = plain_scores()
    assert found.keys() == expected.keys()
    assert found == {number: pytest.approx(score, abs=1e-5) for number, score in expected.items()}
    assert scores.summary["coverage"] == 1
    assert len({round(score, 4) for score in found.values()}) > 5


def test_slices_cover_each_row_once(pool: tuple[Artifact, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_encode, "SLICE_ROWS", 4)
    pieces = clip_encode.slices(pool[0])
    tables = [clip_encode._read_rows(pool[0], piece) for piece in pieces]
    assert [table.num_rows for table in tables] == [piece.rows for piece in pieces]
    assert all(0 < piece.rows <= 4 for piece in pieces)
    assert pa.concat_tables(tables).equals(pa.concat_tables(pool[0].tables("order/")))
    assert all(len(set(table["shard"].to_pylist())) == 1 for table in tables)
    assert [piece for task in clip_encode.tasks(pool[0]) for piece in task] == pieces
    assert all(sum(piece.rows for piece in task) < 2 * 4 for task in clip_encode.tasks(pool[0]))


def test_threads_of_torch_change_no_score_and_are_left_as_they_were(
    pool: tuple[Artifact, str], reference: Artifact, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            scores = run(selector(pool[1], model="reference"), tmp_path / str(threads), pool[0], reference=reference)
            found.append(scores.manifest.content)
            assert torch.get_num_threads() == threads
        assert found[0] == found[1]
    finally:
        torch.set_num_threads(before)


def test_broken_sample_names_its_place(reference: Artifact, tmp_path: Path) -> None:
    pool, path = make_pool(tmp_path, [3, 3])
    tar = tmp_path / "tars" / "00000001.tar"
    data = bytearray(tar.read_bytes())
    data[512:560] = bytes(48)
    tar.write_bytes(data)
    with pytest.raises(RunError, match=r"00000001\.tar, offset 0, uid"):
        run(selector(path, model="reference"), tmp_path / "scores", pool, reference=reference)


def test_config_wants_one_source() -> None:
    for fields in ({}, {"column": "x", "model": "reference"}):
        with pytest.raises(ValidationError, match="either"):
            ClipScoreConfig(kind="clip_score", **fields)
    assert ClipScoreConfig(kind="clip_score", column="x").roles() == ("pool",)
    assert ClipScoreConfig(kind="clip_score", model="reference").roles() == ("pool", "reference")


def test_plan_of_the_reference_counts_the_encoding() -> None:
    rates = RatesConfig().model_dump()
    sizes = {"pool": Size(1_000_000, 1)}
    by_column = selector(column="x").plan(sizes, rates)
    by_model = selector(model="reference").plan(sizes, rates)
    assert by_model.output == by_column.output
    assert by_model.cpu_hours > 100 * by_column.cpu_hours
    assert by_model.partitions == 123 + 1
