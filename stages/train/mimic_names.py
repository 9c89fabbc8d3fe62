"""Names of the parameters that can be mimicked, read from the architecture without torch."""

from collections.abc import Iterable
from typing import Literal

from stages.models.config import ModelConfig
from stages.train.config import MimicConfig

OneTower = Literal["image", "text"]
_BLOCK = ("ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias")


def tower_of(name: str) -> OneTower | None:
    """The tower that a parameter belongs to; None for those of the loss (`logit_scale`, `logit_bias`)."""
    if name.startswith("visual."):
        return "image"
    return None if name in ("logit_scale", "logit_bias") else "text"


def num_blocks(model: ModelConfig, tower: OneTower) -> int | None:
    """Transformer blocks of a tower; None where it is no plain transformer of open_clip."""
    architecture = model.architecture
    config = architecture["vision_cfg" if tower == "image" else "text_cfg"]
    if config.get("timm_model_name") or config.get("hf_model_name"):
        return None
    layers = config.get("layers", 12)
    return layers if isinstance(layers, int) else None


def prefix_of(model: ModelConfig, tower: OneTower) -> str:
    """What a tower's parameter names begin with."""
    if tower == "image":
        return "visual."
    architecture = model.architecture
    custom = architecture.get("custom_text", False) or "hf_model_name" in architecture["text_cfg"]
    return "text." if custom else ""


def tail_names(model: ModelConfig, tower: OneTower) -> list[str]:
    """Parameters behind a tower's last attention: their scores cost next to nothing."""
    blocks = num_blocks(model, tower)
    if blocks is None:
        return []
    prefix = prefix_of(model, tower)
    last = f"{prefix}transformer.resblocks.{blocks - 1}."
    norm, projection = ("ln_post", "proj") if tower == "image" else ("ln_final", "text_projection")
    names = [last + name for name in _BLOCK] + [f"{prefix}{norm}.weight", f"{prefix}{norm}.bias"]
    text = model.architecture["text_cfg"]
    if tower == "text" and text.get("proj_type", "linear") == "none":
        return names
    if tower == "text" and text.get("proj_bias", False):
        return [*names, f"{prefix}{projection}.weight", f"{prefix}{projection}.bias"]
    return [*names, prefix + projection]


def slow_names(model: ModelConfig, names: Iterable[str]) -> list[str]:
    """Those that lie before the last attention: their scores need a derivative through the whole tower."""
    fast = {*tail_names(model, "image"), *tail_names(model, "text")}
    return [name for name in names if name not in fast]


def default_name(model: ModelConfig, tower: OneTower) -> str | None:
    """The output projection of a tower's last MLP; None where there is none by that name."""
    blocks = num_blocks(model, tower)
    if blocks is None:
        return None
    return f"{prefix_of(model, tower)}transformer.resblocks.{blocks - 1}.mlp.c_proj.weight"


def mimicked_names(model: ModelConfig, mimic: MimicConfig) -> list[str]:
    """The parameters to mimic, sorted; a configured name may leave out `text.`, as files of plain CLIP do.

    Raises:
        KeyError: a tower has no default parameter; the tower's name.
    """
    if mimic.parameters is not None:
        known = {*tail_names(model, "image"), *tail_names(model, "text")}
        return sorted(name if name in known else _with_prefix(name, known) for name in mimic.parameters)
    towers: tuple[OneTower, ...] = ("image", "text") if mimic.tower == "both" else (mimic.tower,)
    names = []
    for tower in towers:
        name = default_name(model, tower)
        if name is None:
            raise KeyError(tower)
        names.append(name)
    return sorted(names)


def _with_prefix(name: str, known: set[str]) -> str:
    return f"text.{name}" if f"text.{name}" in known else name
