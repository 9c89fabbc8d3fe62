"""The filter over rows, and its language model: where it is read from, and what is refused."""

from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import UserError
from pipeline.storage import Stat, Storage
from stages.formats import basic_filter
from stages.formats.basic_filter import basic_passes, check_language_model, local_model
from stages.kernels.basic_config import BasicBounds, FastTextModel
from tests.stages.tiny_fasttext import ENGLISH, GERMAN, train_language_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(train_language_model(tmp_path_factory.mktemp("model")))


def _rows(texts: list[str | None]) -> pl.DataFrame:
    size = [300] * len(texts)
    return pl.DataFrame(
        {"text": texts, "original_width": size, "original_height": size}, schema_overrides={"text": pl.String}
    )


def test_rows_pass_by_the_model_that_only_sees_what_passed_the_cheap_tests(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def watched(path: str, texts: list[str]) -> list[str | None]:
        seen.extend(texts)
        return fasttext_languages(path, texts)

    fasttext_languages = basic_filter.fasttext_languages
    monkeypatch.setattr(basic_filter, "fasttext_languages", watched)
    bounds = BasicBounds(language=FastTextModel(fasttext=model))
    passed = basic_passes(bounds, _rows([*ENGLISH, "too short", None, *GERMAN]), Storage())
    assert passed.tolist() == [True] * 4 + [False] * 6
    assert seen == [*ENGLISH, *GERMAN]


def test_no_rows_pass_of_none(model: str) -> None:
    assert basic_passes(BasicBounds(language=FastTextModel(fasttext=model)), _rows([]), Storage()).tolist() == []


def test_bounds_made_absolute_find_their_model_from_any_folder(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(model).parent)
    bounds = BasicBounds(language=FastTextModel(fasttext="model.bin"), wanted="de").absolute()
    monkeypatch.chdir(tmp_path)
    assert bounds.model == model
    assert basic_passes(bounds, _rows([ENGLISH[0], GERMAN[0]]), Storage()).tolist() == [False, True]
    assert BasicBounds(language="any").absolute() == BasicBounds(language="any")


def test_real_model_passes_the_early_check(model: str) -> None:
    check_language_model(Storage(), model, key="select.rule")


@pytest.mark.parametrize("content", [b"", b"PK", b"junk" * 100])
def test_file_that_is_no_model_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lid.bin").write_bytes(content)
    with pytest.raises(UserError, match="not a fastText model") as refused:
        check_language_model(Storage(), str(tmp_path / "lid.bin"), key="selectors.x.language")
    for part in ("lid.bin", "lid.176.bin", "selectors.x.language"):
        assert part in str(refused.value)


def test_missing_binding_names_what_to_install(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basic_filter, "_BINDING", "no_such_module")
    with pytest.raises(UserError, match=r"gradsieve\[language\]"):
        check_language_model(Storage(), model, key="select.rule")


def test_local_model_of_a_local_path_is_that_path(model: str) -> None:
    assert local_model(Storage(), model) == model


class _ObjectStore:
    """An object that can be replaced; counts how often it is fetched."""

    def __init__(self) -> None:
        self.content, self.fetched = b"first", 0

    def stat(self, uri: str) -> Stat:
        return Stat(uri, len(self.content), version=self.content.decode())

    def read_bytes(self, uri: str) -> bytes:
        self.fetched += 1
        return self.content


def test_local_model_of_an_object_is_fetched_once_a_version() -> None:
    store = _ObjectStore()
    first = local_model(store, "s3://models/lid.bin")  # type: ignore[arg-type]
    assert local_model(store, "s3://models/lid.bin") == first  # type: ignore[arg-type]
    assert (Path(first).read_bytes(), store.fetched) == (b"first", 1)
    store.content = b"second"
    assert Path(local_model(store, "s3://models/lid.bin")).read_bytes() == b"second"  # type: ignore[arg-type]
    assert store.fetched == 2
