"""Which CLIP model: an architecture that open_clip knows by name, or one written out in the config."""

from difflib import get_close_matches
from typing import Any, Literal

from pydantic import model_validator

from pipeline.config_base import Config
from stages.models.architecture import architecture_names, named_architecture, tower_fields

SIMPLE_VOCABULARY = 49408
"""Token ids of open_clip's byte-pair tokenizer, which comes without a download."""
_TOKENIZER_OPTIONS = frozenset(
    {
        "additional_special_tokens", "clean", "language", "reduction_mask", "revision", "strip_sep_token", "subfolder",
        "use_fast",
    }
)  # fmt: skip
# Every other one would reach Hugging Face's loaders, which run code of the repository with `trust_remote_code`, load
# what lies at a path of the node, or send a token.


class ModelConfig(Config):
    """A CLIP model: `name` alone, or `embed_dim`, `vision_cfg` and `text_cfg` as in open_clip's own files."""

    name: str | None = None
    """An architecture of open_clip, such as ViT-B-32."""
    embed_dim: int | None = None
    """Width of the space that both towers share."""
    vision_cfg: dict[str, Any] | None = None
    """Image tower: layers, width, head_width, patch_size, image_size, and what else open_clip takes."""
    text_cfg: dict[str, Any] | None = None
    """Text tower: layers, width, heads, context_length, and what else open_clip takes."""
    quick_gelu: bool = False
    """Use OpenAI's approximation of GELU (inline models only; named ones say it by their name)."""
    custom_text: bool = False
    """Keep the text tower in a module of its own, as open_clip's CustomTextCLIP does (inline models only)."""
    init_logit_scale: float | None = None
    """Logarithm of the initial inverse temperature; by default open_clip's ln(1 / 0.07) (inline models only)."""
    init_logit_bias: float | None = None
    """Initial bias of the logits; by default none (inline models only)."""
    nonscalar_logit_scale: bool = False
    """Keep logit_scale as a vector of one element instead of a scalar (inline models only)."""

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> "ModelConfig":
        inline = [key for key in type(self).model_fields if key != "name" and key in self.model_fields_set]
        if self.name is not None:
            if inline:
                raise ValueError(f"give `name` alone or the architecture, not both: {', '.join(inline)}")
            if self.name.replace("/", "-") not in architecture_names():
                raise ValueError(f"open_clip has no architecture {self.name!r}{_nearest(self.name)}")
        else:
            missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if getattr(self, key) is None]
            if missing:
                raise ValueError(f"a model needs `name`, or `embed_dim`, `vision_cfg`, `text_cfg`; missing: {missing}")
            self._check_towers()
        if "multimodal_cfg" in self.architecture:
            raise ValueError(f"{self.name} is not a plain two-tower model; use one without `multimodal_cfg`")
        size = self._tower("vision_cfg")["image_size"]
        if not isinstance(size, int) and (len(size) != 2 or size[0] != size[1]):
            raise ValueError(f"vision_cfg.image_size must be square, found {size}")
        return self

    def _check_towers(self) -> None:
        towers: tuple[Literal["vision_cfg", "text_cfg"], ...] = ("vision_cfg", "text_cfg")
        for tower in towers:
            known = tower_fields(tower)
            for key in getattr(self, tower):
                if key not in known:
                    close = get_close_matches(key, known, n=1)
                    nearest = f"; nearest: {close[0]}" if close else ""
                    raise ValueError(f"{tower} has no key {key!r}{nearest}")
        self._check_sizes()
        text = self._tower("text_cfg")
        _check_tokenizer_options(text["tokenizer_kwargs"] or {})
        if not text["hf_tokenizer_name"] and text["vocab_size"] < SIMPLE_VOCABULARY:
            raise ValueError(
                f"text_cfg.vocab_size must be at least {SIMPLE_VOCABULARY} for the built-in tokenizer, "
                f"found {text['vocab_size']}"
            )

    def _check_sizes(self) -> None:
        """Sizes of towers that open_clip itself builds: whole numbers above 0 that divide as they must."""
        if self.embed_dim is not None:
            _check_size("embed_dim", self.embed_dim)
        vision, text = self._tower("vision_cfg"), self._tower("text_cfg")
        if not vision["timm_model_name"]:
            sides = vision["image_size"] if isinstance(vision["image_size"], list | tuple) else [vision["image_size"]]
            layers = vision["layers"] if isinstance(vision["layers"], list | tuple) else [vision["layers"]]
            for key, sizes in (("image_size", sides), ("layers", layers)):
                for size in sizes:
                    _check_size(f"vision_cfg.{key}", size)
            _check_sizes_of(vision, "vision_cfg", ("width", "head_width", "patch_size"))
            if isinstance(vision["layers"], int):
                width, head = vision["width"], vision["head_width"]
                if width < head or width % (width // head):
                    raise ValueError(
                        f"vision_cfg.width ({width}) gives no equal attention heads of head_width ({head})"
                    )
                if vision["patch_size"] > min(sides):
                    raise ValueError(
                        f"vision_cfg.patch_size ({vision['patch_size']}) is larger than image_size ({min(sides)})"
                    )
        if not text["hf_model_name"]:
            _check_sizes_of(text, "text_cfg", ("context_length", "vocab_size", "width", "heads", "layers"))
            if text["width"] % text["heads"]:
                raise ValueError(f"text_cfg.width ({text['width']}) must be a multiple of heads ({text['heads']})")

    @property
    def architecture(self) -> dict[str, Any]:
        """What open_clip calls `model_cfg`: a fresh dict, keys at their defaults left out."""
        if self.name is not None:
            return named_architecture(self.name.replace("/", "-"))
        literal = self.model_dump(exclude={"name"}, exclude_defaults=True)
        return {"embed_dim": self.embed_dim, **literal}

    @property
    def image_size(self) -> int:
        """Side of the square image, in pixels."""
        size = self._tower("vision_cfg")["image_size"]
        return int(size if isinstance(size, int) else size[0])

    @property
    def context_length(self) -> int:
        """Tokens of a caption, start and end tokens included."""
        return int(self._tower("text_cfg")["context_length"])

    @property
    def num_tokens(self) -> int | None:
        """Tokens of an image: patches and the class token; None where open_clip leaves it to timm."""
        vision = self._tower("vision_cfg")
        if vision["timm_model_name"]:
            return None
        patch = vision["patch_size"] if isinstance(vision["layers"], int) else 32  # ResNets shrink by 32
        return (self.image_size // int(patch)) ** 2 + 1

    @property
    def num_parameters(self) -> int | None:
        """About how many weights the model has, without building it; None where a tower is no plain transformer."""
        vision, text = self._tower("vision_cfg"), self._tower("text_cfg")
        if not isinstance(vision["layers"], int) or vision["timm_model_name"] or text["hf_model_name"]:
            return None
        width, tokens, embed = int(vision["width"]), self.num_tokens or 0, int(self.architecture["embed_dim"])
        image = 12 * vision["layers"] * width**2 + (3 * int(vision["patch_size"]) ** 2 + tokens + embed) * width
        width = int(text["width"])
        embedded = int(text["vocab_size"]) + self.context_length + embed
        return int(image + 12 * text["layers"] * width**2 + embedded * width)

    def _tower(self, tower: Literal["vision_cfg", "text_cfg"]) -> dict[str, Any]:
        return {**tower_fields(tower), **self.architecture[tower]}


def _check_tokenizer_options(options: object) -> None:
    """A configuration may come from anyone who may submit: it chooses among options, and runs nothing."""
    if not isinstance(options, dict):
        raise ValueError(f"text_cfg.tokenizer_kwargs must be a mapping, found {options!r}")
    for key in options:
        if key not in _TOKENIZER_OPTIONS:
            raise ValueError(
                f"text_cfg.tokenizer_kwargs may not have {key!r}: a configuration runs no code of others and reaches "
                f"no file of a node; allowed: {', '.join(sorted(_TOKENIZER_OPTIONS))}"
            )


def _check_sizes_of(tower: dict[str, Any], name: str, keys: tuple[str, ...]) -> None:
    for key in keys:
        _check_size(f"{name}.{key}", tower[key])


def _check_size(key: str, size: object) -> None:
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"{key} must be a whole number above 0, found {size!r}")


def _nearest(name: str) -> str:
    close = get_close_matches(name, architecture_names(), n=3)
    return f"; nearest: {', '.join(close)}" if close else ""
