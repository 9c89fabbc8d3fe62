"""DataComp's basic filter as a clause, against its definition row by row."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.artifact import ArtifactWriter
from pipeline.errors import UserError
from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages.kernels.language import fasttext_languages
from stages.select import SelectConfig, SelectStage
from tests.artifacts import commit, run_stage
from tests.stages.tiny_fasttext import ENGLISH, GERMAN, train_language_model
from tests.stages.uid_tables import make_pool, put_buckets, random_uids, read_all

ROWS = [  # caption, width, height, language column
    ("a red dog", 300, 300, "en"),
    ("red dogs", 300, 300, "en"),
    ("a b c", 300, 300, "en"),
    ("a b cc", 300, 300, "en"),
    ("a\tred\ndog", 300, 300, "en"),
    ("a red dog", 200, 200, "en"),
    ("a red dog", 199, 300, "en"),
    ("a red dog", 600, 200, "en"),
    ("a red dog", 602, 200, "en"),
    ("a red dog", None, 300, "en"),
    (None, 300, 300, "en"),
    ("ein roter Hund", 300, 300, "de"),
    ("a red dog", 300, 300, None),
    *((text, 256, 256, "en") for text in ENGLISH),
    *((text, 256, 256, "de") for text in GERMAN),
]


def is_basic(text, width, height):
    """reference: language aside, `len(text.split()) > 2`, `len(text) > 5`, sides >= 200, aspect <= 3."""
    if None in (text, width, height):
        return False
    sides = min(width, height) >= 200 and max(width, height) / min(width, height) <= 3.0
    return len(text.split()) > 2 and len(text) > 5 and sides


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    root = tmp_path_factory.mktemp("basic")
    hi, lo = random_uids(len(ROWS))
    text, width, height, lang = zip(*ROWS, strict=True)
    metadata = {
        "text": pa.array(text, pa.string()),
        "original_width": pa.array(width, pa.int64()),
        "original_height": pa.array(height, pa.int64()),
        "lang": pa.array(lang, pa.string()),
    }
    pool = make_pool(root / "pool", hi, lo, bits=1, metadata=metadata)
    table = pa.table({"uid_hi": hi, "uid_lo": lo, "p_keep": np.ones(len(hi), "f4"), "pattern": np.ones(len(hi), "u8")})
    files = put_buckets(ArtifactWriter(str(root / "decisions"), Storage()), table, 1)
    return pool, commit(root / "decisions", "decisions", StageResult(files, {"scales": {}, "method": "majority"}))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(train_language_model(tmp_path_factory.mktemp("model")))


def kept(tables, root, basic):
    config = SelectConfig.model_validate({"rule": {"basic": basic}})
    subset = run_stage(SelectStage(config), root, "subset", inputs={"pool": tables[0], "decisions": tables[1]})
    return [reason == "kept" for reason in read_all(subset, "reasons/")["reason"].to_pylist()]


def test_basic_without_language_equals_its_definition(tables, tmp_path):
    assert kept(tables, tmp_path, {"language": "any"}) == [is_basic(*row[:3]) for row in ROWS]


def test_basic_language_column_must_name_the_wanted_one(tables, tmp_path):
    wanted = [is_basic(*row[:3]) and row[3] == "en" for row in ROWS]
    assert kept(tables, tmp_path / "en", {"language": "column:lang"}) == wanted
    german = [is_basic(*row[:3]) and row[3] == "de" for row in ROWS]
    assert kept(tables, tmp_path / "de", {"language": "column:lang", "wanted": "de"}) == german


def test_basic_fasttext_keeps_what_the_model_calls_english(tables, tmp_path, model):
    labels = fasttext_languages(model, [row[0] or "" for row in ROWS])
    wanted = [is_basic(*row[:3]) and label == "en" for row, label in zip(ROWS, labels, strict=True)]
    found = kept(tables, tmp_path, {"language": {"fasttext": model}})
    assert found == wanted
    assert found[-8:] == [True] * 4 + [False] * 4


def test_basic_ascii_heuristic_keeps_latin_letters(tables, tmp_path):
    assert kept(tables, tmp_path, {"language": "ascii_heuristic"}) == [is_basic(*row[:3]) for row in ROWS]


def test_basic_bounds_can_be_set(tables, tmp_path):
    basic = {"language": "any", "min_words": 0, "min_chars": 0, "min_side": 0, "max_aspect": 1.0}
    assert kept(tables, tmp_path, basic) == [None not in row[:3] and row[1] == row[2] for row in ROWS]


def test_basic_missing_column_is_named_with_those_there_are(tables, tmp_path):
    with pytest.raises(UserError, match=r"caption[\s\S]*original_width"):
        kept(tables, tmp_path, {"language": "any", "text": "caption"})


def test_select_declares_the_language_model_as_input(model):
    config = SelectConfig.model_validate({"rule": {"basic": {"language": {"fasttext": model}}}})
    declared = SelectStage(config, metadata="meta").external()
    assert declared["language/0"].uri == model
    assert declared["language/0"].identity
    assert declared["metadata"].suffix == ".parquet"


def test_select_rule_on_metadata_without_any_is_refused_early():
    stage = SelectStage(SelectConfig.model_validate({"rule": {"basic": {"language": "any"}}}))
    with pytest.raises(UserError, match=r"needs metadata: original_height, original_width, text[\s\S]*pool.metadata"):
        stage.preflight({}, Storage())


def test_select_language_model_that_is_none_is_refused_before_work(tmp_path):
    (tmp_path / "lid.bin").write_bytes(b"junk" * 100)
    basic = {"language": {"fasttext": str(tmp_path / "lid.bin")}}
    stage = SelectStage(SelectConfig.model_validate({"rule": {"basic": basic}}))
    with pytest.raises(UserError, match=r"not a fastText model[\s\S]*lid\.bin"):
        stage.preflight({}, Storage())
