from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.rates import RatesConfig
from pipeline.stage import Size
from stages.kernels.scale import batch_scales
from stages.selectors.loss import LossConfig, LossSelector
from tests.stages.selectors.score_tables import frame_of, run
from tests.stages.train.test_gather import fake_pool, train

KEYS = ["uid_hi", "uid_lo", "visit"]


def test_loss_is_minus_the_recorded_loss_at_each_visit_with_its_place_in_the_batch(tmp_path: Path) -> None:
    training, ledger = train(tmp_path / "training")
    pool = fake_pool(tmp_path / "pool", 60, 2)
    stage = LossSelector(LossConfig(kind="loss"), name="hard", pool_path="")
    scores = run(stage, tmp_path / "scores", pool, training=training)
    frame = frame_of(scores)
    rank, z = batch_scales(ledger["step"].to_numpy(), -ledger["loss"].to_numpy())
    expected = (
        pl.DataFrame(ledger.drop_columns(["score", "weight"]))
        .with_columns(score=-pl.col("loss"), rank=pl.Series(rank), z=pl.Series(z))
        .sort(KEYS)
    )
    assert frame.select(expected.columns).equals(expected)
    assert "weight" not in frame.columns  # the weight belongs to the mimic score
    assert frame["batch"].max() == 8
    assert scores.summary["batched"] is True
    assert scores.summary["visits"] == 2
    assert scores.summary["selector"] == "hard"
    assert scores.summary["coverage"] == pytest.approx(50 / 60)
    assert scores.manifest.counts is not None
    assert scores.manifest.counts.seen == scores.manifest.counts.out == ledger.num_rows


def test_lower_loss_ranks_higher_in_its_batch(tmp_path: Path) -> None:
    training, _ = train(tmp_path / "training")
    stage = LossSelector(LossConfig(kind="loss"), name="loss", pool_path="")
    scores = run(stage, tmp_path / "scores", fake_pool(tmp_path / "pool", 50, 1), training=training)
    for _, batch in frame_of(scores).group_by("step"):
        by_loss = batch.sort("loss")
        assert (np.diff(by_loss["rank"].to_numpy()) < 0).all()


def test_loss_takes_pool_and_training() -> None:
    assert LossConfig(kind="loss").roles() == ("pool", "training")
    with pytest.raises(ValidationError, match="extra"):
        LossConfig(kind="loss", column="x")
    stage = LossSelector(LossConfig(kind="loss"), name="loss", pool_path="")
    plan = stage.plan({"pool": Size(10, 1), "training": Size(50, 1)}, RatesConfig().model_dump())
    assert plan.output.rows == 50
    assert set(stage.gives.columns) >= {"rank", "z", "batch", "loss"}
    assert isinstance(stage.gives.columns["loss"], pa.DataType)
