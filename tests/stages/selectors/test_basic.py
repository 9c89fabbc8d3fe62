from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from stages.kernels.basic_config import FastTextModel
from stages.selectors.basic import BasicConfig, BasicSelector
from tests.stages.selectors.score_tables import by_number, run
from tests.stages.train.tiny_pool import make_pool

CAPTIONS = [
    "a dog on grass",  # passes
    "a dog",  # two words
    "a b c",  # five code points
    "a b cd",  # six: passes
    "ein Hund im Gras",
    "собака на траве тут",  # not ASCII
    "a dog on grass",  # too small
    "a dog on grass",  # side just large enough
    "a dog on grass",  # aspect exactly 3
    "a dog on grass",  # aspect above 3
    None,
    "a dog on grass",  # no width
]
WIDTHS = [300, 300, 300, 300, 300, 300, 199, 200, 600, 601, 300, None]
HEIGHTS = [300, 300, 300, 300, 300, 300, 300, 200, 200, 200, 300, 300]
LANGUAGES = ["en", "en", "en", "en", "de", "ru", "en", "en", "en", "en", "en", "en"]
METADATA = pa.table(
    {
        "text": CAPTIONS,
        "original_width": pa.array(WIDTHS, pa.int64()),
        "original_height": pa.array(HEIGHTS, pa.int64()),
        "language": LANGUAGES,
    }
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_pool(tmp_path_factory.mktemp("pool"), [5, 7], metadata=METADATA)[0]


def selector(*, metadata: str | None = None, **fields: object) -> BasicSelector:
    return BasicSelector(BasicConfig(kind="basic", **fields), name="basic", pool_path="", metadata=metadata)


def plain_rule(caption: str, width: int, height: int) -> bool:
    """The filter as DataComp states it, but for the language."""
    return (
        len(caption.split()) > 2
        and len(caption) > 5
        and min(width, height) >= 200
        and max(width, height) / min(width, height) <= 3.0
    )


def test_scores_without_language_test_are_the_plain_rules(pool: Artifact, tmp_path: Path) -> None:
    expected = {n: float(plain_rule(str(CAPTIONS[n]), int(str(WIDTHS[n])), HEIGHTS[n])) for n in range(10)}
    scores = run(selector(language="any"), tmp_path, pool)
    assert by_number(scores) == expected
    assert expected == {0: 1, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1, 6: 0, 7: 1, 8: 1, 9: 0}


def test_samples_with_incomplete_metadata_have_no_score(pool: Artifact, tmp_path: Path) -> None:
    scores = run(selector(language="any"), tmp_path, pool)
    assert not {10, 11} & set(by_number(scores))
    assert scores.manifest.counts is not None
    assert scores.manifest.counts.dropped == {"no score": 2}


def test_language_by_column_and_by_heuristic(pool: Artifact, tmp_path: Path) -> None:
    by_column = by_number(run(selector(language="column:language"), tmp_path / "c", pool))
    assert [n for n, score in sorted(by_column.items()) if score] == [0, 3, 7, 8]
    german = by_number(run(selector(language="column:language", wanted="de"), tmp_path / "d", pool))
    assert [n for n, score in german.items() if score] == [4]
    heuristic = by_number(run(selector(language="ascii_heuristic"), tmp_path / "h", pool))
    assert [n for n, score in sorted(heuristic.items()) if score] == [0, 3, 4, 7, 8]


def test_language_by_a_fasttext_model(pool: Artifact, tmp_path: Path) -> None:
    pybind = pytest.importorskip("fasttext_pybind")
    fasttext = pytest.importorskip("fasttext")
    lines = ["__label__en a dog on grass", "__label__de ein Hund im Gras", "__label__ru собака на траве тут"]
    (tmp_path / "train.txt").write_text("\n".join(lines * 40))
    model = fasttext.train_supervised(str(tmp_path / "train.txt"), dim=8, epoch=25, lr=0.5, thread=1, verbose=0)
    model.save_model(str(tmp_path / "model.bin"))
    assert pybind is not None
    language = FastTextModel(fasttext=str(tmp_path / "model.bin"))
    scores = by_number(run(selector(language=language, wanted="de"), tmp_path / "scores", pool))
    assert [n for n, score in scores.items() if score] == [4]


def test_bounds_can_be_set(pool: Artifact, tmp_path: Path) -> None:
    loose = selector(language="any", min_words=0, min_chars=0, min_side=0, max_aspect=10.0)
    assert set(by_number(run(loose, tmp_path, pool)).values()) == {1.0}


def test_metadata_without_the_columns_is_refused_before_work(pool: Artifact, tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": ["0"], "caption": ["x"]}), tmp_path / "m.parquet")
    stage = selector(language="any", metadata=str(tmp_path))
    with pytest.raises(UserError) as error:
        run(stage, tmp_path / "scores", pool)
    assert "text, original_width, original_height" in str(error.value)
    assert "m.parquet" in str(error.value)
    assert not (tmp_path / "scores").exists()


def test_metadata_column_of_another_kind_is_refused(tmp_path: Path) -> None:
    metadata = METADATA.set_column(1, "original_width", pa.array(["wide"] * len(METADATA)))
    pool, _ = make_pool(tmp_path, [5, 7], metadata=metadata)
    with pytest.raises(UserError, match="cannot use metadata column original_width"):
        run(selector(language="any"), tmp_path / "scores", pool)


def test_unknown_language_test_is_refused() -> None:
    with pytest.raises(ValidationError, match="ascii_heuristic"):
        BasicConfig(kind="basic", language="english")
    assert BasicConfig(kind="basic", language="any").roles() == ("pool",)
