"""What DataComp's basic filter is told, as a clause of a rule and as a selector alike."""

from typing import Self

from pydantic import Field, field_validator

from pipeline.config_base import Config
from pipeline.storage import absolute

_COLUMN = "column:"


class FastTextModel(Config):
    """A fastText language model, such as lid.176.bin."""

    fasttext: str
    """Local path or s3:// URI of the model; nothing is downloaded from elsewhere."""


class BasicBounds(Config):
    """Language, caption length, image size and shape, by the pool's metadata; bounds as in DataComp."""

    language: FastTextModel | str
    """`{fasttext: path}`; or `ascii_heuristic`, `column:<name>` (a metadata column that holds the language), `any`."""
    wanted: str = "en"
    """The language that passes."""
    text: str = "text"
    """Metadata column of the caption."""
    width: str = "original_width"
    """Metadata column of the width in pixels, before resizing."""
    height: str = "original_height"
    """Metadata column of the height."""
    min_words: int = Field(3, ge=0)
    """Words between white space."""
    min_chars: int = Field(6, ge=0)
    """Code points."""
    min_side: int = Field(200, ge=0)
    """Pixels of the shorter side."""
    max_aspect: float = Field(3.0, ge=1)
    """Longer side over shorter side."""

    @field_validator("language")
    @classmethod
    def _known_test(cls, value: FastTextModel | str) -> FastTextModel | str:
        if isinstance(value, str) and value not in ("ascii_heuristic", "any") and not value.startswith(_COLUMN):
            raise ValueError(f"language {value!r}: expected {{fasttext: path}}, ascii_heuristic, column:<name> or any")
        return value

    def without_effect(self) -> list[str]:
        """See `Config`."""
        if self.is_set("wanted") and self.language in ("any", "ascii_heuristic"):
            return [f"wanted: no effect with `language: {self.language}`, which tells no languages apart"]
        return []

    @property
    def language_column(self) -> str | None:
        """The metadata column that holds the language, if the test is one."""
        if isinstance(self.language, str) and self.language.startswith(_COLUMN):
            return self.language.removeprefix(_COLUMN)
        return None

    @property
    def model(self) -> str | None:
        """URI of the language model, if the test needs one."""
        return self.language.fasttext if isinstance(self.language, FastTextModel) else None

    def absolute(self) -> Self:
        """The same, its language model named so that any folder will do to look from."""
        if self.model is None:
            return self
        return self.model_copy(update={"language": FastTextModel(fasttext=absolute(self.model))})
