"""What a user can get wrong: one clear message, exit code 2, before any work, nothing left behind."""

import io
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.cli.app import main
from pipeline.lease import held
from pipeline.progress import Reporter
from pipeline.storage import Storage
from tests.end_to_end.runs import TINY

pytestmark = pytest.mark.slow


def _refused(capsys: pytest.CaptureFixture[str], *overrides: str, config: str | None = None) -> str:
    """Run in this process; the message of a run that exits with 2."""
    with pytest.raises(SystemExit) as leave:
        main(["run", config or str(TINY), "output=runs/refused", *overrides])
    shown = capsys.readouterr()
    assert leave.value.code == 2, shown.err
    assert "Traceback" not in shown.err
    assert not Path("runs/refused/store").exists(), "work had started"
    return shown.err


def _succeeds(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints that ends well."""
    with pytest.raises(SystemExit) as leave:
        main(arguments)
    assert leave.value.code == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def _there(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["train.batchsize=64"], ["train.batchsize", "did you mean `batch_size`?"]),
        (["selekt={}"], ["did you mean `select`?"]),
        (["selectors.loss.kindd=loss"], ["selectors.loss", "did you mean `kind`?"]),
        (["train.epochs=many"], ["train.epochs", "integer"]),
        (["train.learning_rate=fast"], ["train.learning_rate", "number"]),
        (["train.epochs=null"], ["exactly one of `epochs` and `samples_seen`"]),
        (["train.batch_size=33"], ["multiple of lanes"]),
        (["train.temperature=0"], ["temperature"]),
        (["train.temperature={effective_batch: 1.5}"], ["effective_batch"]),
        (["select.rule.top.fraction=1.5"], ["select.rule.top.fraction"]),
        (["select.rule.top.fraction=0"], ["select.rule.top.fraction"]),
        (["binarize.fraction=0"], ["binarize.fraction"]),
        (["binarize.voters={mimik: {}}"], ["mimik", "mimic"]),
        (["binarize.voters={mimic: {}}"], ["label_model", "at least 3 voters", "there are 2"]),
        (["pool.path=nowhere"], ["nowhere", "gradsieve pool make data/demo"]),
        (["pool.metadata=nowhere"], ["nowhere", ".parquet"]),
        (["pool.metadata=null"], ["selectors.clip_score", "pool.metadata"]),
        (["seed=-1"], ["seed", "greater than or equal to 0"]),
        (["output=''"], ["output", "at least 1 character"]),
        (["selectors={Odd Name: {kind: loss}}"], ["Odd Name"]),
        (["reference.trusted=nowhere.npy"], ["nowhere.npy"]),
        (["report.truth=nowhere.parquet"], ["nowhere.parquet"]),
        (["evaluate.data=nowhere"], ["nowhere"]),
        (["train.mimic.parameters=[visual.transformer.resblocks.7.mlp.c_proj.weight]"], ["resblocks.7", "resblocks.1"]),
        (["train.mimic.parameters=[logit_scale]"], ["logit_scale", "c_proj.weight"]),
        (["select.rule={at_least: {by: aesthetic_score, value: 5}}"], ["aesthetic_score", "clip_l14_similarity_score"]),
        (["selectors.clip_score.column=clip_g_score"], ["clip_g_score", "clip_l14_similarity_score"]),
        (["select.rule={}"], ["exactly one key"]),
        (["select.exclude=[nowhere.npy]"], ["nowhere.npy"]),
        (["train.model={name: ViT-B-33}"], ["ViT-B-33", "ViT-B-32"]),
        (["train.model.vision_cfg.widht=3"], ["widht", "width"]),
        (["train.model.vision_cfg.patch_size=0"], ["vision_cfg.patch_size", "above 0"]),
        (["reference.base.batch_size=33"], ["reference.base", "multiple of lanes"]),
        (["evaluate.retrain={epochs: 1, batch_size: 33}"], ["evaluate.retrain", "multiple of lanes"]),
        (["select.rule={at_least: {by: text, value: 5}}"], ["text", "found: string", "integers, floats or booleans"]),
        (["select.rule={basic: {language: {fasttext: nowhere.bin}}}"], ["nowhere.bin", "lid.176.bin"]),
        (["select.rule=top"], ["select.rule", "block of `key: value` lines"]),
        (["cluster.address=127.0.0.1:1"], ["127.0.0.1:1", "cluster.address"]),
        (["selectors={mimic: {kind: loss}}"], ["mimic"]),
        (["limits.usd=0.0000001", "plan.rates.usd_per_cpu_hour=1000"], ["limits.usd", "planned"]),
        (["justwords"], ["key.path=value"]),
    ],
    ids=lambda value: value[0].replace("/", "-")[:50] if isinstance(value, list) else None,
)
def test_fault_in_the_configuration_is_named(
    overrides: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    message = _refused(capsys, *overrides)
    for part in parts:
        assert part in message


def test_unknown_configuration_lists_the_shipped_ones(capsys: pytest.CaptureFixture[str]) -> None:
    message = _refused(capsys, config="nothing.yaml")
    assert "demo.yaml" in message
    assert "medium.yaml" in message


def test_empty_pool_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert ".tar" in _refused(capsys, f"pool.path={tmp_path}")


def test_reference_of_another_shape_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    from stages.models.build import build_model
    from stages.models.config import ModelConfig

    other = ModelConfig(
        embed_dim=32,
        vision_cfg={"image_size": 32, "patch_size": 8, "layers": 2, "width": 48, "head_width": 16},
        text_cfg={"context_length": 24, "layers": 1, "width": 32, "heads": 2},
    )
    weights = {name: tensor.numpy() for name, tensor in build_model(other, 0).state_dict().items()}
    save_file(weights, str(tmp_path / "other.safetensors"))
    source = f"reference={{source: '{tmp_path}/other.safetensors'}}"
    message = _refused(capsys, source)
    for part in ("other.safetensors", "expected", "found", "visual."):
        assert part in message


def test_trusted_subset_in_another_format_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(10))
    (tmp_path / "trusted.npy").write_bytes(buffer.getvalue())
    message = _refused(capsys, f"reference.trusted={tmp_path}/trusted.npy")
    assert "trusted.npy" in message


def test_empty_trusted_subset_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros(0, np.dtype("u8,u8")))
    message = _refused(capsys, f"reference.trusted={tmp_path}/none.npy")
    assert "none.npy" in message


def test_language_model_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "lid.bin").write_bytes(b"x" * 100)
    message = _refused(capsys, f"select.rule={{basic: {{language: {{fasttext: '{tmp_path}/lid.bin'}}}}}}")
    assert "not a fastText model" in message
    assert "lid.bin" in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    message = _refused(capsys, "train.use_gpu=true")
    for part in ("train.use_gpu", "found: 0", "--plan"):
        assert part in message


def _refused_behind_the_pool(capsys: pytest.CaptureFixture[str], output: Path, *overrides: str) -> str:
    """The message of a run that exits with 2 as soon as its pool is known: nothing is trained."""
    with pytest.raises(SystemExit) as leave:
        main(["run", str(TINY), f"output={output}", "cluster.executor=in_process", *overrides])
    shown = capsys.readouterr()
    assert leave.value.code == 2, shown.err
    assert "Traceback" not in shown.err
    assert (output / "store/pool").exists()
    assert not (output / "store/training").exists()
    return shown.err


def test_trusted_subset_of_another_pool_is_refused_behind_the_pool(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    np.save(tmp_path / "other.npy", np.array([(1, 2), (3, 4)], np.dtype("u8,u8")))
    message = _refused_behind_the_pool(capsys, tmp_path / "run", f"reference.trusted={tmp_path}/other.npy")
    assert "other.npy" in message


def test_score_column_with_nan_is_refused_behind_the_pool(
    workplace: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "metadata").mkdir()
    for path in (workplace / "pool/metadata").iterdir():
        column = pl.lit(float("nan")).alias("clip_l14_similarity_score")
        pl.read_parquet(path).with_columns(column).write_parquet(tmp_path / "metadata" / path.name)
    message = _refused_behind_the_pool(capsys, tmp_path / "run", f"pool.metadata={tmp_path}/metadata")
    assert "clip_l14_similarity_score" in message


def test_truth_that_is_no_parquet_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "truth.parquet").write_bytes(b"mismatched,clean")
    message = _refused(capsys, f"report.truth={tmp_path}/truth.parquet")
    assert "not Parquet" in message


def test_metadata_without_uid_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pl.DataFrame({"url": ["x"]}).write_parquet(tmp_path / "m.parquet")
    message = _refused(capsys, f"pool.metadata={tmp_path}")
    assert "uid" in message
    assert "m.parquet" in message


def test_second_run_on_the_same_output_is_refused_with_3(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with held(str(tmp_path), Storage(), Reporter()), pytest.raises(SystemExit) as leave:
        main(["run", str(TINY), f"output={tmp_path}"])
    assert leave.value.code == 3
    assert "another run" in capsys.readouterr().err


def test_interrupt_exits_with_130_and_says_that_work_is_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.cli.run.read_config_text", interrupt)
    with pytest.raises(SystemExit) as leave:
        main(["run", "demo.yaml"])
    assert leave.value.code == 130
    assert "goes on from here" in capsys.readouterr().err


def test_help_teaches_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, part in (
        (["--help"], "gradsieve run demo.yaml"),
        (["run", "--help"], "gradsieve run demo.yaml"),
        (["pool", "--help"], "gradsieve pool make data/demo"),
        (["pool", "make", "--help"], "gradsieve pool make data/demo"),
        (["status", "--help"], "gradsieve status runs/demo"),
        (["explain", "--help"], "gradsieve explain runs/demo"),
        (["verify", "--help"], "gradsieve verify runs/demo"),
    ):
        assert part in _succeeds(capsys, *arguments)


@pytest.mark.parametrize("name", ["demo.yaml", "small.yaml", "medium.yaml", "large.yaml", "xlarge.yaml"])
def test_plan_needs_no_data_and_spends_nothing(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = _succeeds(capsys, "run", name, "--plan")
    assert "training/mimic" in shown
    assert list(tmp_path.iterdir()) == []


def test_plan_of_medium_is_sane(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = _succeeds(capsys, "run", "medium.yaml", "--plan")
    training = next(line for line in shown.splitlines() if "training/mimic" in line)
    assert "31,250" in training  # 128M samples / 4096
    assert "128,000,000" in training
    assert " 40.0 GPU hours" in shown.splitlines()[-1]  # at DataComp's own rate


def test_broken_evaluation_shard_is_refused_before_training(
    workplace: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(workplace / "pool/eval", tmp_path / "eval")
    (tmp_path / "eval/wds_digits_test/test/0.tar").write_bytes(b"junk" * 500)
    message = _refused(capsys, f"evaluate.data={tmp_path}/eval")
    assert "wds_digits_test/test/0.tar" in message


def test_link_to_nothing_in_the_pool_is_named(
    workplace: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(workplace / "pool/shards", tmp_path / "shards")
    (tmp_path / "shards/zz.tar").symlink_to(tmp_path / "nowhere")
    message = _refused(capsys, f"pool.path={tmp_path}/shards")
    assert "zz.tar" in message
    assert "link to nothing" in message
