"""From text to a checked configuration, or one message that helps."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from pipeline.config_base import Config, placement
from pipeline.errors import UserError
from pipeline.storage import Storage
from pipeline.yaml_config import load_config, read_config_text, shipped_names


class Loss(Config):
    kind: Literal["loss"] = "loss"
    smoothing: float = 0.0


class Table(Config):
    kind: Literal["table"] = "table"
    path: str


class Train(Config):
    epochs: int = 1
    learning_rate: float = 1e-3
    precision: Literal["fp32", "amp_bf16"] = "fp32"

    @model_validator(mode="after")
    def _positive(self) -> "Train":
        if self.epochs < 1:
            raise ValueError("epochs must be at least 1")
        return self


class Root(Config):
    seed: int = 0
    train: Train = Field(default_factory=Train)
    selectors: dict[str, Annotated[Loss | Table, Field(discriminator="kind")]] = Field(default_factory=dict)
    reshard: Train | Literal["off"] = "off"
    optional: Train | None = None
    where: str = placement("here")


def _load(text: str, *overrides: str) -> Root:
    return load_config(Root, text, overrides, "my.yaml")


def _fault(text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        _load(text, *overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_yaml_is_version_1_2() -> None:
    assert _load("train: {learning_rate: 5e-4}").train.learning_rate == 5e-4
    assert _load("where: on").where == "on"
    assert _load("where: no").where == "no"


def test_empty_file_is_all_defaults() -> None:
    assert _load("") == Root()
    assert _load("# nothing\n", "seed=3").seed == 3


def test_override_reaches_any_depth_and_makes_missing_blocks() -> None:
    root = _load("train: {epochs: 2}", "train.learning_rate=5e-4", "optional.epochs=7", "reshard.epochs=3", "seed=9")
    assert (root.train.epochs, root.train.learning_rate, root.seed) == (2, 5e-4, 9)
    assert root.optional is not None
    assert root.optional.epochs == 7
    assert isinstance(root.reshard, Train)
    assert _load("reshard: {epochs: 3}", "reshard=off").reshard == "off"
    assert _load("optional: {epochs: 3}", "optional=null").optional is None
    table = _load("", "selectors.mine={kind: table, path: 'a=b.parquet'}").selectors["mine"]
    assert isinstance(table, Table)
    assert table.path == "a=b.parquet"


@pytest.mark.parametrize("override", ["train.epochs", "=3", ".a=3", "train..epochs=3"])
def test_override_of_another_form_is_refused(override: str) -> None:
    assert "key.path=value" in _fault("", override)


def test_unknown_key_names_the_nearest_and_its_path() -> None:
    message = _fault("train: {epoch: 3}")
    assert "my.yaml" in message
    assert "train.epoch: unknown key; did you mean `epochs`?" in message
    assert "did you mean `train`?" in _fault("trian: {}")
    assert "did you mean `path`?" in _fault("selectors: {a: {kind: table, pth: x, path: y}}")
    assert "did you mean `epochs`?" in _fault("reshard: {epoks: 3}")
    assert "known here:" in _fault("zzzzzzzz: 1")


def test_unknown_key_by_override_is_refused_as_well() -> None:
    assert "train.epoch: unknown key; did you mean `epochs`?" in _fault("", "train.epoch=3")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("train: {epochs: many}", "train.epochs"),
        ("train: {epochs: 1.5}", "train.epochs"),
        ("train: {epochs: '3'}", "train.epochs"),
        ("train: {epochs: true}", "train.epochs"),
        ("seed: null", "seed"),
        ("train: 3", "train"),
        ("train: {precision: fp8}", "'fp32' or 'amp_bf16'"),
        ("selectors: {a: {kind: lss}}", "selectors.a.kind: one of 'loss', 'table' is needed; found 'lss'"),
        ("selectors: {a: {path: x}}", "selectors.a.kind: one of loss, table is needed"),
        ("reshard: {epochs: 0}", "reshard: epochs must be at least 1"),
        ("seed: 2020-13-45", "month must be in 1..12"),
        ("train: {learning_rate: .inf}", "train.learning_rate: Input should be a finite number"),
        ("selectors: {a: {kind: table}}", "selectors.a.path: this key is needed"),
        ("train: {epochs: 0}", "epochs must be at least 1"),
    ],
)
def test_wrong_value_names_its_place(text: str, part: str) -> None:
    assert part in _fault(text)


def test_password_in_a_url_is_not_repeated() -> None:
    message = _fault("seed: 'http://someone:hunter2@127.0.0.1:9000'")
    assert "hunter2" not in message
    assert "//***@127.0.0.1:9000" in message


def test_all_faults_are_told_at_once() -> None:
    message = _fault("sed: 1\ntrain: {epochs: x, precison: fp32}")
    assert "3 fault(s)" in message
    assert "did you mean `seed`?" in message
    assert "did you mean `precision`?" in message


def test_duplicate_key_is_refused_with_its_line() -> None:
    message = _fault("seed: 1\ntrain: {}\nseed: 2")
    assert "stands twice" in message
    assert "my.yaml:3" in message


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tx: 1", "{", "'unclosed"])
def test_text_that_is_no_yaml_is_refused(text: str) -> None:
    assert "not YAML" in _fault(text)


@pytest.mark.parametrize("text", ["- 1\n- 2", "just words", "42"])
def test_yaml_that_is_no_mapping_is_refused(text: str) -> None:
    assert "no mapping" in _fault(text)


@pytest.mark.parametrize("tagged", ["!!python/object/apply:os.system ['true']", "!Env HOME", "!!int 3", "!!str x"])
def test_tag_is_refused_with_its_line_and_runs_nothing(tagged: str) -> None:
    message = _fault(f"where: x\nseed: {tagged}")
    assert "tags are not allowed" in message
    assert "my.yaml:2" in message


def test_union_of_a_block_and_a_word_tells_only_the_faults_that_were_meant() -> None:
    message = _fault("reshard: {epochs: x, precison: fp32}")
    assert "2 fault(s)" in message
    assert "reshard.epochs: " in message
    assert "reshard.precison: unknown key; did you mean `precision`?" in message
    assert "off" not in message


@pytest.mark.parametrize("word", ["on", "5", "[1, 2]"])
def test_word_that_is_neither_a_block_nor_the_word_is_one_fault(word: str) -> None:
    message = _fault(f"reshard: {word}")
    assert "reshard: Input should be a block of `key: value` lines" in message
    assert "'off'" in message
    if not word.startswith("["):
        assert "1 fault(s)" in message
        assert f"found {word if word.isdigit() else repr(word)}" in message


def test_text_nested_without_end_is_refused() -> None:
    assert "nested too deeply" in _fault("a: " + "[" * 5_000 + "]" * 5_000)


@given(st.text(max_size=60))
def test_any_text_loads_or_is_refused_with_a_message(text: str) -> None:
    message = ""
    try:
        _load(text)
    except UserError as error:
        message = str(error)
    assert message == "" or "my.yaml" in message


def test_shipped_name_wins_and_paths_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "demo.yaml" in shipped_names()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.yaml").write_text("seed: 77")
    assert "77" not in read_config_text("demo.yaml", Storage())
    assert read_config_text("./demo.yaml", Storage()) == "seed: 77"
    with pytest.raises(UserError, match="no such configuration") as caught:
        read_config_text("nowhere.yaml", Storage())
    assert "demo.yaml" in str(caught.value)
    with pytest.raises(UserError, match="no such configuration"):
        read_config_text(str(tmp_path), Storage())
    (tmp_path / "latin.yaml").write_bytes(b"output: caf\xe9")
    with pytest.raises(UserError, match="UTF-8"):
        read_config_text(str(tmp_path / "latin.yaml"), Storage())


def test_identity_leaves_placement_out_at_every_depth() -> None:
    root = _load("selectors: {a: {kind: table, path: x}}\nwhere: there")
    assert "where" not in root.identity()
    assert root.identity()["selectors"] == {"a": {"kind": "table", "path": "x"}}
    assert root.identity() == _load("selectors: {a: {kind: table, path: x}}").identity()
