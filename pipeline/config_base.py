"""The base of every configuration class: strict, frozen, documented field by field."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """A block of the configuration file.

    Unknown keys are errors, values are not coerced from other types, and instances are immutable.
    Cross-field rules are `model_validator`s that raise `ValueError`; the loader adds file and key.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def identity(self) -> dict[str, Any]:
        """The literal values that enter a fingerprint: everything but placement fields."""
        return {name: _literal(getattr(self, name)) for name in type(self).model_fields if not self._is_placement(name)}

    def without_effect(self) -> list[str]:
        """Settings that change nothing as this block stands, each as a sentence without the block's own key."""
        return []

    def is_set(self, *names: str) -> list[str]:
        """Those of these fields that were written down, and not as they are by default."""
        fields = type(self).model_fields
        written = [name for name in names if name in self.model_fields_set]
        return [name for name in written if getattr(self, name) != fields[name].get_default(call_default_factory=True)]

    @classmethod
    def _is_placement(cls, name: str) -> bool:
        extra = cls.model_fields[name].json_schema_extra
        return isinstance(extra, dict) and bool(extra.get("placement"))


def _literal(value: object) -> object:
    if isinstance(value, Config):
        return value.identity()
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(item) for item in value]
    return value


def placement(default: Any = ..., **constraints: Any) -> Any:
    """A field that says where or how wide something runs and never what comes out of it.

    Placement fields are left out of fingerprints: changing one repeats no work.
    """
    return Field(default, json_schema_extra={"placement": True}, **constraints)
