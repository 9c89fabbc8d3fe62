"""AdamW, the learning rate's course and the bound on the logit scale, as CLIP is trained with."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from stages.train.config import TrainConfig

LOGIT_SCALE_MAX = math.log(100.0)
_SPARED = ("bn", "ln", "bias", "logit_scale")


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices that are no norms, biases or logit scale (open_clip's rule)."""
    return parameter.ndim >= 2 and not any(part in name for part in _SPARED)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over two groups: without and with weight decay."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    spared = [parameter for name, parameter in named if not decays(name, parameter)]
    decayed = [parameter for name, parameter in named if decays(name, parameter)]
    return torch.optim.AdamW(
        [{"params": spared, "weight_decay": 0.0}, {"params": decayed, "weight_decay": config.weight_decay}],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
    )


def learning_rate(step: int, num_steps: int, config: TrainConfig) -> float:
    """Linear rise over the warm-up, then half a cosine down to 0.

    Args:
        step: 0-based.
        num_steps: of the whole training.
        config: `learning_rate` and `warmup`.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, num_steps - config.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * done)) * config.learning_rate


def clip_gradients(parameters: Iterable[nn.Parameter], config: TrainConfig) -> None:
    """Shrink the whole gradient to `grad_clip`, where that is set."""
    if config.grad_clip is not None:
        nn.utils.clip_grad_norm_(parameters, config.grad_clip)


@torch.no_grad()
def bound_logit_scale(model: nn.Module) -> None:
    """Keep the inverse temperature between 1 and 100, as its logarithm."""
    scale = getattr(model, "logit_scale", None)
    if isinstance(scale, nn.Parameter):
        scale.clamp_(0.0, LOGIT_SCALE_MAX)
