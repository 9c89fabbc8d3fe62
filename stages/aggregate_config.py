"""Configuration of the decisions: how votes become one probability a sample."""

from typing import Literal

from pydantic import Field

from pipeline.config_base import Config
from stages.kernels.patterns import MAX_VOTERS

AggregateMethod = Literal["auto", "label_model", "majority", "mean_score"]
MIN_LABEL_MODEL_VOTERS = 3


class AggregateConfig(Config):
    """Votes to decisions."""

    method: AggregateMethod = "auto"
    """`label_model`: Snorkel's, which learns how far each voter is to be trusted; `majority`: share of the votes cast
    that say keep; `mean_score`: mean of the selectors' scaled scores; `auto`: the label model, or the majority where
    there are fewer than 3 voters."""
    class_balance: float | None = Field(None, gt=0, lt=1)
    """Share of the samples that is worth keeping, before any vote; by default keep votes / cast votes."""
    steps: int = Field(1000, ge=1)
    """Steps of Adam; the fit takes well under a second."""
    learning_rate: float = Field(0.01, gt=0)
    """Of Adam."""
    l2: float = Field(0.0, ge=0)
    """Strength of the pull towards the initial parameters."""
    initial_precision: float = Field(0.7, gt=0, lt=1)
    """How often a vote is taken to be right before the first step."""

    def without_effect(self) -> list[str]:
        """See `Config`."""
        learning = self.is_set("steps", "learning_rate", "l2", "initial_precision")
        if self.method in ("majority", "mean_score") and learning:
            return [f"{name}: no effect with `method: {self.method}`" for name in learning]
        return []

    def check_num_voters(self, num_voters: int) -> None:
        """Refuse what this number of voters cannot do.

        Raises:
            ValueError: none, too few for the label model, or more than a vote pattern holds.
        """
        if num_voters < 1:
            raise ValueError("no selector votes: there is nothing to aggregate")
        if num_voters > MAX_VOTERS:
            raise ValueError(f"{num_voters} voters; a vote pattern holds at most {MAX_VOTERS}")
        if self.method == "label_model" and num_voters < MIN_LABEL_MODEL_VOTERS:
            raise ValueError(
                f"`method: label_model` needs at least {MIN_LABEL_MODEL_VOTERS} voters, there are {num_voters}: "
                "add visits (train.epochs) or selectors, or set `method: auto`, `majority` or `mean_score`"
            )

    def resolved(self, num_voters: int) -> Literal["label_model", "majority", "mean_score"]:
        """The method that is used for so many voters."""
        if self.method == "auto":
            return "label_model" if num_voters >= MIN_LABEL_MODEL_VOTERS else "majority"
        return self.method
