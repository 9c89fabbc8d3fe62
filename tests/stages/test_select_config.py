import pytest

from stages.select_config import Rule, SelectConfig

TOP = {"top": {"by": "p_keep", "fraction": 0.3}}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "exactly one key"),
        ({**TOP, "basic": {"language": "any"}}, "exactly one key"),
        ({"all": []}, "at least 1"),
        ({"top": {"by": "p_keep"}}, "either `fraction` or `count`"),
        ({"top": {"by": "p_keep", "fraction": 0.3, "count": 3}}, "either `fraction` or `count`"),
        ({"top": {"by": "p_keep", "fraction": 1.5}}, "fraction"),
        ({"bottom": {"by": "p_keep", "fraction": 0.0}}, "fraction"),
        ({"top": {"by": "p_keep", "fraction": 0.3, "of": "everything"}}, "selected"),
        ({"clip_score": {"arch": "l14"}}, "either `fraction` or `threshold`"),
        ({"clip_score": {"arch": "h14", "fraction": 0.3}}, "b32"),
        ({"basic": {}}, "language"),
        ({"basic": {"language": "english"}}, "ascii_heuristic"),
        ({"any": [TOP, {"most": 3}]}, "most"),
        ({"top": {"by": "p_keep", "fraction": 0.3, "of": "selected"}}, "needs a clause before it"),
        ({"all": [{"top": {"by": "a", "count": 1, "of": "selected"}}, TOP]}, "needs a clause before it"),
        ({"any": [TOP, {"top": {"by": "a", "count": 1, "of": "selected"}}]}, "needs a clause before it"),
    ],
)
def test_select_config_impossible_rules_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        SelectConfig.model_validate({"rule": rule})


def test_select_config_of_selected_reaches_into_nested_clauses():
    nested = {"all": [TOP, {"any": [{"not": {"bottom": {"by": "a", "fraction": 0.1, "of": "selected"}}}]}]}
    assert SelectConfig.model_validate({"rule": nested}).names() == ["a", "p_keep"]


def test_select_config_datacomp_without_clip_score_would_have_no_effect():
    with pytest.raises(ValueError, match="no effect"):
        SelectConfig.model_validate({"rule": TOP, "datacomp_compatible": True})


def test_select_config_names_columns_and_models():
    basic = {"basic": {"language": {"fasttext": "lid.bin"}, "text": "caption"}}
    column = {"basic": {"language": "column:lang"}}
    config = SelectConfig.model_validate(
        {"rule": {"any": [{"all": [basic, {"clip_score": {"arch": "b32", "threshold": 0.28}}]}, column, {"not": TOP}]}}
    )
    assert config.models() == ["lid.bin"]
    assert config.names() == ["p_keep"]
    assert config.basic_columns() == ["caption", "lang", "original_height", "original_width", "text"]
    assert config.clip_columns() == ["clip_b32_similarity_score"]


def test_select_config_final_fraction_is_that_of_the_decision():
    assert SelectConfig().final_fraction() == 0.3
    rule = {"all": [{"clip_score": {"arch": "l14", "fraction": 0.5}}, {"top": {"by": "p_keep", "fraction": 0.2}}]}
    assert SelectConfig.model_validate({"rule": rule}).final_fraction() == 0.2
    assert SelectConfig.model_validate({"rule": {"top": {"by": "mimic", "fraction": 0.2}}}).final_fraction() is None


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (TOP, "not top 0.3 of pool by p_keep"),
        ({"not": {"bottom": {"by": "mimic", "count": 5, "of": "scored"}}}, "bottom 5 of scored by mimic"),
        ({"at_least": {"by": "q", "value": 0.28}}, "not q at least 0.28"),
        ({"basic": {"language": "any"}}, "not basic"),
        ({"clip_score": {"arch": "l14", "fraction": 0.3}}, "not clip_score l14 0.3"),
        ({"any": [TOP, {"not": TOP}]}, "not (top 0.3 of pool by p_keep or not top 0.3 of pool by p_keep)"),
    ],
)
def test_rule_reason_reads_as_a_person_would_say_it(rule, reason):
    assert Rule.model_validate(rule).reason == reason


def test_rule_written_out_reads_back_the_same():
    rule = Rule.model_validate({"all": [TOP, {"not": {"bottom": {"by": "mimic", "fraction": 0.05}}}]})
    assert Rule.model_validate(rule.model_dump(by_alias=True, exclude_none=True)) == rule
