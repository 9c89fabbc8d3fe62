import pytest
from pydantic import ValidationError

from stages.kernels.basic_config import BasicBounds
from stages.select_config import BasicClause
from stages.selectors.basic import BasicConfig


def test_clause_and_selector_have_the_same_bounds():
    clause, selector = BasicClause(language="any"), BasicConfig(kind="basic", language="any")
    assert clause.model_dump() == selector.model_dump(exclude={"kind"})
    assert (clause.min_words, clause.min_chars, clause.min_side, clause.max_aspect) == (3, 6, 200, 3.0)


@pytest.mark.parametrize(
    ("language", "column", "model"),
    [
        ("any", None, None),
        ("ascii_heuristic", None, None),
        ("column:lang", "lang", None),
        ("column:a:b", "a:b", None),
        ({"fasttext": "s3://b/lid.bin"}, None, "s3://b/lid.bin"),
    ],
)
def test_language_test_names_its_column_or_its_model(language, column, model):
    bounds = BasicBounds.model_validate({"language": language})
    assert (bounds.language_column, bounds.model) == (column, model)


@pytest.mark.parametrize(
    "wrong", [{"language": "english"}, {}, {"language": "any", "max_aspect": 0.5}, {"language": "any", "min_side": -1}]
)
def test_bounds_refuse_what_cannot_be_meant(wrong):
    with pytest.raises(ValidationError):
        BasicBounds.model_validate(wrong)
