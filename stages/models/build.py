"""Build a model and its tokenizer with open_clip."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer

from pipeline.errors import UserError
from stages.models.config import ModelConfig

Tokenizer = Callable[[list[str]], torch.Tensor]
"""Captions -> token ids, int64 [B, context_length]."""


def build_model(config: ModelConfig, seed: int) -> open_clip.CLIP:
    """A float32 model on the CPU with open_clip's own initial weights.

    The weights depend on architecture, seed and torch's version alone; the global random state is left as it was.

    Raises:
        UserError: open_clip cannot build this architecture.
    """
    architecture = deepcopy(config.architecture)
    architecture["vision_cfg"]["timm_model_pretrained"] = False  # weights come from one place: `read_pretrained`
    custom_text = architecture.pop("custom_text", False) or "hf_model_name" in architecture["text_cfg"]
    if custom_text:
        architecture["text_cfg"]["hf_model_pretrained"] = False
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return kind(**architecture).float()
        except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError) as error:
            raise UserError(
                "open_clip cannot build this model",
                where="model",
                expected="keys and sizes that open_clip accepts",
                found=f"{type(error).__name__}: {error}",
                next_step="widths must be multiples of the heads, image_size of patch_size",
            ) from error


def build_tokenizer(config: ModelConfig) -> Tokenizer:
    """The tokenizer that belongs to a model.

    The byte-pair tokenizer comes with open_clip; those of Hugging Face are downloaded or found in its cache.
    Captions beyond the context are cut, their last token becoming the end token.
    """
    text: dict[str, Any] = config.architecture["text_cfg"]
    options: dict[str, Any] = text.get("tokenizer_kwargs") or {}
    name = (config.name or "").lower()
    tokenizer: Tokenizer
    if text.get("hf_tokenizer_name"):
        mode = text.get("tokenizer_mode")
        tokenizer = HFTokenizer(
            text["hf_tokenizer_name"],
            context_length=config.context_length,
            tokenizer_mode=mode,
            trust_remote_code=False,  # left out, transformers would ask at a terminal
            **options,
        )
    elif "siglip" in name:
        variant = "gemma" if "siglip2" in name else "mc4" if "i18n" in name else "c4-en"
        tokenizer = SigLipTokenizer(variant, context_length=config.context_length)
    else:
        tokenizer = SimpleTokenizer(context_length=config.context_length, **options)
    return tokenizer
