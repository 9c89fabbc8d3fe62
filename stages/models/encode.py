"""Images and captions to unit vectors."""

import open_clip
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor


def normalise(batch: Tensor) -> Tensor:
    """Pixels 0..255 to open_clip's input: scaled to 0..1, minus its channel means, over its channel deviations.

    Args:
        batch: uint8 [B, 3, H, W], RGB.

    Returns:
        float32 [B, 3, H, W] on the same device.
    """
    mean = torch.tensor(OPENAI_DATASET_MEAN, device=batch.device).view(1, 3, 1, 1)
    std = torch.tensor(OPENAI_DATASET_STD, device=batch.device).view(1, 3, 1, 1)
    return (batch.to(torch.float32) / 255.0 - mean) / std


def encode_images(model: open_clip.CLIP, batch: Tensor) -> Tensor:
    """Features of images, scaled to length 1; gradients flow unless the caller switched them off.

    Args:
        model: any open_clip model with `encode_image`.
        batch: uint8 pixels, or float pixels already normalised, [B, 3, H, W].

    Returns:
        float32 [B, embed_dim].
    """
    pixels = normalise(batch) if batch.dtype == torch.uint8 else batch
    return F.normalize(model.encode_image(pixels).float(), dim=-1)


def encode_texts(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Features of captions, scaled to length 1; gradients flow unless the caller switched them off.

    Args:
        model: any open_clip model with `encode_text`.
        tokens: int64 [B, context_length], as the model's tokenizer gives them.

    Returns:
        float32 [B, embed_dim].
    """
    return F.normalize(model.encode_text(tokens).float(), dim=-1)
