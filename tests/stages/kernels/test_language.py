import polars as pl
import pytest

from stages.kernels.language import ascii_letters, equals, fasttext_languages
from tests.stages.tiny_fasttext import ENGLISH, GERMAN, train_language_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(train_language_model(tmp_path_factory.mktemp("model")))


def test_fasttext_languages_tell_two_languages_apart(model):
    assert fasttext_languages(model, [*ENGLISH, *GERMAN]) == ["en"] * len(ENGLISH) + ["de"] * len(GERMAN)


def test_fasttext_languages_take_newlines_as_spaces_and_empty_texts(model):
    text = ENGLISH[0]
    assert fasttext_languages(model, [text.replace(" ", "\n"), "", "   "])[0] == "en"
    assert len(fasttext_languages(model, ["", "\n"])) == 2


def test_fasttext_languages_equal_line_by_line_prediction(model, monkeypatch):
    texts = [*ENGLISH, *GERMAN] * 3
    whole = fasttext_languages(model, texts)
    monkeypatch.setattr("stages.kernels.language._LINES", 4)
    assert fasttext_languages(model, texts) == whole == [fasttext_languages(model, [text])[0] for text in texts]


def test_equals_takes_no_answer_as_another_language():
    assert equals(["en", None, "de", "en"], "en").tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a photo of a dog", True),
        ("12345 678", False),
        ("фото собаки", False),
        ("café with crème outside the old house", True),
        ("", False),
        ("狗 dog", False),
        ("ab 12", False),
        ("abc12", True),
    ],
)
def test_ascii_letters_tells_scripts_apart(text, kept):
    assert pl.DataFrame({"text": [text]}).select(ascii_letters(pl.col("text"))).item() == kept
