"""The smallest useful inline model, for tests."""

from stages.models.config import ModelConfig

TINY = ModelConfig(
    embed_dim=16,
    vision_cfg={"image_size": 16, "patch_size": 8, "layers": 1, "width": 32, "head_width": 16},
    text_cfg={"context_length": 12, "layers": 1, "width": 32, "heads": 2},
)
