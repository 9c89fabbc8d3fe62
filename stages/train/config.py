"""How CLIP is trained over the pool, and what is scored meanwhile."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config_base import Config, placement
from stages.models.config import ModelConfig

Method = Literal["mimic", "uniform", "score"]
Tower = Literal["image", "text", "both"]
Reading = Literal["own_loss", "path"]


class EffectiveBatch(Config):
    """A temperature that is found anew each step, from how many samples shall count."""

    effective_batch: float = Field(gt=0, le=1)
    """Share of the scored batch that 1 / sum(w^2) shall reach; 1 weighs all samples alike."""


class MimicConfig(Config):
    """Which parameters' gradients are compared with the target direction, and how."""

    tower: Tower = "image"
    """Tower of the default parameters; `both` gives one score from both, their directions concatenated."""
    parameters: list[str] | None = Field(None, min_length=1)
    """Names as in the model's state dict; by default the output projection of the last MLP of each tower."""
    reading: Reading = "own_loss"
    """What a sample's gradient is: that of its `own_loss` term, or what flows through its own features (`path`)."""

    def without_effect(self) -> list[str]:
        """See `Config`."""
        beside = self.parameters is not None and self.is_set("tower")
        return ["tower: no effect beside `parameters`"] if beside else []

    @model_validator(mode="after")
    def _parameters_once(self) -> "MimicConfig":
        if self.parameters is not None and len(set(self.parameters)) != len(self.parameters):
            raise ValueError(f"mimic.parameters names a parameter twice: {self.parameters}")
        return self


class TrainConfig(Config):
    """Training of one CLIP model; with `method: mimic` or `score` it is a selector as well."""

    model: ModelConfig
    """The student."""
    method: Method = "mimic"
    """`mimic` weighs by score; `uniform` weighs alike, scores the same; `score` is one pass with frozen weights."""
    epochs: int | None = Field(None, ge=1)
    """Passes over the pool; give this or `samples_seen`."""
    samples_seen: int | None = Field(None, ge=1)
    """Samples to train on in all, rounded up to a whole batch; give this or `epochs`."""
    batch_size: int = Field(4096, ge=2)
    """Samples of a global batch: each is a negative for all others, and scores are compared within it."""
    lanes: int = Field(8, ge=1)
    """Streams of shards that a batch is drawn from; fixed, so that the order does not depend on the ranks."""
    num_workers: int = Field(1, ge=1)
    """Ranks, each one process with a share of the batch."""
    min_workers: int | None = placement(None, ge=1)
    """Fewest ranks that training goes on with where the cluster has no room for all; the batch and its order stay, sums
    differ in their last bits. Without it all are waited for."""
    threads_per_rank: int = Field(1, ge=1)
    """Threads of a rank's arithmetic; sums depend on it in their last bits."""
    loader_threads: int = placement(2, ge=1)
    """Threads of a rank that read and decode images."""
    loader_processes: int = placement(0, ge=0)
    """Processes beside each rank that decode images instead of its threads, which hold up a GPU; 0 for none."""
    decode: Literal["exact", "draft"] = "exact"
    """`draft` decodes large JPEGs at a fraction of their size and resizes faster; pixels differ a little."""
    window: int = Field(1024, ge=1)
    """Samples of a lane that are shuffled among each other."""
    sampling: Literal["without_replacement", "with_replacement"] = "without_replacement"
    """Each sample once an epoch, or shards drawn anew (some then are never seen, see `select.unscored`)."""
    temperature: float | EffectiveBatch = 0.05
    """Of the softmax that turns scores into weights: a number, or `{effective_batch: 0.9}`."""
    mimic: MimicConfig = MimicConfig()
    """What the score looks at."""
    learning_rate: float = Field(5e-4, gt=0)
    """At the end of the warm-up; from there it falls to 0 along a cosine."""
    warmup: int = Field(500, ge=0)
    """Steps in which the learning rate rises linearly."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW: decay of the mean gradient."""
    beta2: float = Field(0.98, ge=0, lt=1)
    """AdamW: decay of the mean squared gradient."""
    eps: float = Field(1e-6, gt=0)
    """AdamW: added to the denominator."""
    weight_decay: float = Field(0.2, ge=0)
    """Of matrices; vectors, norms, biases and the logit scale are spared."""
    grad_clip: float | None = Field(None, gt=0)
    """Greatest norm of the whole gradient."""
    accumulation: int = Field(1, ge=1)
    """Pieces in which a rank's share of the batch passes through the model; the batch stays one."""
    precision: Literal["amp_bf16", "fp32"] = "amp_bf16"
    """Of forward and backward; weights, scores and the optimizer are float32."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; by default the end of each epoch."""
    use_gpu: bool = Field(False)
    """One GPU a rank."""
    max_retries: int = placement(3, ge=0)
    """How often training goes on from its last checkpoint after a rank was lost."""

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if (self.epochs is None) == (self.samples_seen is None):
            raise ValueError("give exactly one of `epochs` and `samples_seen`")
        if self.method == "score" and self.epochs is not None and self.epochs != 1:
            raise ValueError("method `score` is one pass with frozen weights: set `epochs: 1`")
        return self

    @model_validator(mode="after")
    def _temperature_positive(self) -> "TrainConfig":
        if not isinstance(self.temperature, EffectiveBatch) and not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, found {self.temperature}")
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> "TrainConfig":
        if self.batch_size % self.lanes:
            raise ValueError(f"batch_size ({self.batch_size}) must be a multiple of lanes ({self.lanes})")
        if self.lanes % self.num_workers:
            raise ValueError(f"lanes ({self.lanes}) must be a multiple of num_workers ({self.num_workers})")
        local = self.batch_size // self.num_workers
        if local % self.accumulation:
            raise ValueError(f"a rank's share of the batch ({local}) must be a multiple of accumulation")
        return self

    def without_effect(self) -> list[str]:
        """See `Config`."""
        lines = []
        if self.method != "mimic" and self.is_set("temperature"):
            lines.append(f"temperature: no effect with `method: {self.method}`, which weighs all alike")
        if self.loader_processes and self.is_set("loader_threads"):
            lines.append("loader_threads: no effect beside `loader_processes`")
        if self.method == "score":
            learning = self.is_set(
                "learning_rate", "warmup", "beta1", "beta2", "eps", "weight_decay", "grad_clip", "accumulation"
            )
            lines += [f"{name}: no effect with `method: score`, which learns nothing" for name in learning]
        return lines

    @model_validator(mode="after")
    def _fewest_of_all(self) -> "TrainConfig":
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers ({self.min_workers}) is above num_workers ({self.num_workers})")
        return self

    def with_ranks(self, world_size: int) -> "TrainConfig":
        """The same training by fewer ranks: each takes more pieces of the same size, so that its memory stays."""
        assert self.num_workers % world_size == 0
        return self.model_copy(update={"accumulation": self.accumulation * self.num_workers // world_size})

    def as_score_pass(self) -> "TrainConfig":
        """One pass with frozen weights in the same batches, over samples that come later."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        once = {"method": "score", "epochs": 1, "samples_seen": None, "sampling": "without_replacement"}
        return TrainConfig(**{**values, **once})

    @property
    def world_sizes(self) -> list[int]:
        """Numbers of ranks that may train, largest first; each divides `num_workers`, so that lanes stay whole."""
        fewest = self.min_workers or self.num_workers
        return [size for size in range(self.num_workers, fewest - 1, -1) if self.num_workers % size == 0]

    @property
    def local_batch_size(self) -> int:
        """Samples of a rank in each batch."""
        return self.batch_size // self.num_workers

    @property
    def towers(self) -> tuple[Literal["image", "text"], ...]:
        """Towers whose default parameters are mimicked."""
        return ("image", "text") if self.mimic.tower == "both" else (self.mimic.tower,)
