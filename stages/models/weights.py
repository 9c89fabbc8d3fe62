"""Weights as files: written so that open_clip itself loads them, read from wherever people keep them."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor, nn

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.storage import Storage, absolute, is_s3, join
from stages.models.build import build_model
from stages.models.config import ModelConfig

WEIGHTS_NAME = "open_clip_model.safetensors"
CONFIG_NAME = "open_clip_config.json"
_SHOWN = 5
_HUB = "hf-hub:"
_ENDINGS = (".safetensors", ".pt", ".pth", ".bin")


def model_files(model: nn.Module, config: ModelConfig) -> dict[str, bytes]:
    """The two files that `open_clip.create_model("local-dir:<folder>")` reads: equal models, equal bytes."""
    return {WEIGHTS_NAME: save_state(model.state_dict()), CONFIG_NAME: _config_json(config)}


def save_state(state: Mapping[str, Tensor]) -> bytes:
    """A state dict as safetensors."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    data: bytes = safetensors.torch.save(tensors, metadata={"format": "pt"})
    return data


def load_state(data: bytes, where: str = "weights") -> dict[str, Tensor]:
    """A state dict from safetensors, or from a torch checkpoint read without running any code in it.

    Training checkpoints are unwrapped (`state_dict`), and the prefix of data-parallel ones (`module.`) is removed.

    Raises:
        UserError: the bytes are neither.
    """
    try:
        if _is_safetensors(data):
            loaded: Any = safetensors.torch.load(data)
        else:
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler lets any error of its byte code through
        raise UserError(
            "weights cannot be read",
            where=where,
            expected="safetensors, or a torch checkpoint of plain tensors",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            next_step="convert the file to .safetensors",
        ) from error
    if isinstance(loaded, dict) and "state_dict" in loaded:
        loaded = loaded["state_dict"]
    if not _is_state(loaded):
        raise UserError(
            "weights hold no state dict",
            where=where,
            expected="names to tensors",
            found="no tensors" if loaded == {} else type(loaded).__name__,
            next_step="save `model.state_dict()`, best as .safetensors",
        )
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def _is_state(loaded: object) -> bool:
    if not isinstance(loaded, dict) or not loaded:
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items())


def load_model(artifact: Artifact, prefix: str = "model/") -> tuple[open_clip.CLIP, ModelConfig]:
    """A model that a stage wrote by `model_files`, on the CPU, ready to evaluate."""
    config = read_config(artifact.read_bytes(prefix + CONFIG_NAME))
    model = build_model(config, seed=0)
    state = load_state(artifact.read_bytes(prefix + WEIGHTS_NAME), artifact.uri(prefix + WEIGHTS_NAME))
    check_shapes(state, model, where=artifact.uri(prefix + WEIGHTS_NAME))
    model.load_state_dict(state)
    return model.eval(), config


def read_config(data: bytes) -> ModelConfig:
    """The model config in an open_clip_config.json: by name where the file gives one that means the same."""
    body = json.loads(data)
    name = body.get("model_name")
    if name is not None and ModelConfig(name=name).architecture == body["model_cfg"]:
        return ModelConfig(name=name)
    return ModelConfig.model_validate(body["model_cfg"])


def check_shapes(state: Mapping[str, Tensor], model: nn.Module, *, where: str = "weights") -> None:
    """Refuse weights that are not those of this model's architecture.

    Raises:
        UserError: naming the first parameters that are missing, unknown, or of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if not wrong:
        return
    more = f" (and {len(wrong) - _SHOWN} more parameters)" if len(wrong) > _SHOWN else ""
    raise UserError(
        "weights do not fit the model",
        where=where,
        expected="; ".join(f"{name} {_shape(expected.get(name))}" for name in wrong[:_SHOWN]) + more,
        found="; ".join(f"{name} {_shape(found.get(name))}" for name in wrong[:_SHOWN]) + more,
        next_step="use weights of the architecture that `model` describes, or change `model`",
    )


def check_finite(state: Mapping[str, Tensor], *, where: str = "weights") -> None:
    """Refuse weights of a training that diverged: every score by them would be NaN.

    Raises:
        UserError: naming the first parameters that hold NaN or infinity.
    """
    wrong = sorted(name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all()))
    if wrong:
        raise UserError(
            "weights that are no numbers",
            where=where,
            expected="finite values in every parameter",
            found=f"NaN or infinity in {len(wrong)} parameter(s): {', '.join(wrong[:_SHOWN])}",
            next_step="use a checkpoint from before the training diverged",
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))


def _is_safetensors(data: bytes) -> bool:
    return len(data) > 8 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8


def _config_json(config: ModelConfig) -> bytes:
    body = {
        "model_name": config.name,
        "model_cfg": config.architecture,
        "preprocess_cfg": {
            "mean": list(OPENAI_DATASET_MEAN),
            "std": list(OPENAI_DATASET_STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    return (json.dumps(body, indent=2, sort_keys=True) + "\n").encode()


def read_pretrained(source: str, config: ModelConfig, storage: Storage) -> dict[str, Tensor]:
    """Weights from outside the run.

    Args:
        source: a file (`.safetensors` or a torch checkpoint; local or s3://), a local folder in open_clip's layout,
            `hf-hub:<organisation>/<model>`, or a tag of open_clip for `config.name`.
        config: the model that they are for.
        storage: reads files; downloads go through open_clip and its cache.

    Raises:
        UserError: nothing is there, it cannot be downloaded, or it is no state dict.
    """
    path = weights_file(source, storage)
    if path is not None:
        state = load_state(storage.read_bytes(path), path)
    elif source.startswith(_HUB):
        state = _downloaded(source, lambda: open_clip.pretrained.download_pretrained_from_hf(source.removeprefix(_HUB)))
    else:
        state = _downloaded(source, lambda: open_clip.download_pretrained(_tag(source, config)))
    return _as_of_today(state, config)


def weights_file(source: str, storage: Storage) -> str | None:
    """Where the weights lie if `source` names a file or folder, else None (a tag, or a model on the hub).

    Raises:
        UserError: it names a file, and there is none.
    """
    if source.startswith(_HUB) or not (is_s3(source) or "/" in source or source.endswith(_ENDINGS)):
        return None
    uri = absolute(source)
    candidates = [uri] if uri.endswith(_ENDINGS) else [join(uri, WEIGHTS_NAME), uri]
    for candidate in candidates:
        if storage.exists(candidate):
            return candidate
    raise UserError(
        "no weights there",
        where=source,
        expected="a .safetensors file or torch checkpoint, or a folder with " + WEIGHTS_NAME,
        next_step="check the path in the config",
    )


def _tag(tag: str, config: ModelConfig) -> dict[str, Any]:
    name = (config.name or "").replace("/", "-")
    found: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    if not found:
        tags = open_clip.pretrained.list_pretrained_tags_by_model(name)
        raise UserError(
            f"open_clip has no weights {tag!r} for this model",
            where=config.name or "a model given inline",
            expected=", ".join(tags) or "a file: only named architectures have tags",
            found=tag,
            next_step="give one of these tags, hf-hub:<organisation>/<model>, or the path of a file",
        )
    return found


def _downloaded(source: str, download: Callable[[], str]) -> dict[str, Tensor]:
    try:
        local = download()
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            "weights cannot be downloaded",
            where=source,
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            next_step="download them where there is a network, and give the path of the file",
        ) from error
    return load_state(Path(local).read_bytes(), local)


def _as_of_today(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Names and shapes that older versions of open_clip wrote otherwise."""
    state.pop("text.transformer.embeddings.position_ids", None)
    architecture = config.architecture
    if architecture.get("custom_text") and "positional_embedding" in state:
        state = convert_to_custom_text_state_dict(state)
    if "logit_scale" in state:
        shape = (1,) if architecture.get("nonscalar_logit_scale") else ()
        if state["logit_scale"].numel() == 1:  # else it is for `check_shapes` to tell
            state["logit_scale"] = state["logit_scale"].reshape(shape)
    return state
