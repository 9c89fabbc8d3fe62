"""What lies behind a tower's last attention, replayed under forward-mode differentiation.

Behind the last attention each token is on its own, so the derivative of a sample's features along a
direction of those parameters needs the pooled token alone. A forward hook captures what enters the last
block's second norm; the replay goes on from there in full precision. Duals through the whole forward
would cost more than twice the step, and break in attention's backward.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from stages.train.mimic_names import OneTower, tower_of
from stages.train.task import Batch, pixels_of

Pool = Literal["first", "last", "argmax", "eos", "mean"]


class TailModule(nn.Module):
    """The modules behind the last attention of one tower, shared with the model."""

    def __init__(self, tower: nn.Module, norm: nn.Module, projection: nn.Parameter | nn.Module | None) -> None:
        """Share the last block's second half, the final norm and the projection."""
        super().__init__()
        block = tower.transformer.resblocks[-1]  # type: ignore[union-attr, index]
        assert isinstance(block, nn.Module)
        self.ln_2 = block.get_submodule("ln_2")
        self.mlp = block.get_submodule("mlp")
        self.ls_2 = block.get_submodule("ls_2")
        self.norm = norm
        self.projection = projection

    def forward(self, hidden: Tensor, pooled_before_norm: bool, averaged: bool) -> Tensor:
        """Unit features from what enters the second norm.

        Args:
            hidden: [b, t, w]: the pooled token (t = 1), or all tokens that are averaged.
            pooled_before_norm: whether the final norm comes after the average.
            averaged: whether tokens are averaged.

        Returns:
            [b, d].
        """
        hidden = hidden + self.ls_2(self.mlp(self.ln_2(hidden)))
        if averaged and pooled_before_norm:
            pooled = self.norm(hidden.mean(dim=1))
        else:
            pooled = self.norm(hidden).mean(dim=1) if averaged else self.norm(hidden[:, 0])
        if isinstance(self.projection, nn.Module):
            pooled = self.projection(pooled)
        elif self.projection is not None:
            pooled = pooled @ self.projection
        return F.normalize(pooled, dim=-1)


class TailTangent:
    """The fast path; holds a forward hook on the model for as long as it lives."""

    def __init__(self, model: nn.Module, tower: OneTower) -> None:
        """Find the tail's modules and start capturing.

        Raises:
            LookupError: this tower has no such tail.
        """
        root = _tower_root(model, tower)
        self._pool, self._pooled_before_norm = _pooling(model, root, tower)
        norm = root.ln_post if tower == "image" else root.ln_final
        projection = root.proj if tower == "image" else root.text_projection
        self._tail = TailModule(root, norm, projection)  # type: ignore[arg-type]
        self._eos = int(getattr(root, "text_eos_id", getattr(root, "eos_id", 0)))
        self._names = _names_in_model(model, self._tail)
        self.parameters = tuple(sorted(self._names))
        self._captured: Tensor | None = None
        self._replaying = False
        self._tail.ln_2.register_forward_pre_hook(self._capture)

    def _capture(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not self._replaying:
            self._captured = args[0].detach()

    def __call__(self, batch: Batch, direction: Mapping[str, Tensor]) -> Tensor:
        """See `Tangent`."""
        assert self._captured is not None, "no batch has passed through the model"
        moved = {name: tensor for name, tensor in direction.items() if name in self._names}
        local = {self._names[name]: parameter for name, parameter in self._model_parameters(moved).items()}
        hidden = self._pooled_tokens(self._captured, batch.tokens)
        self._captured = None
        hidden = hidden.to(next(iter(local.values())).dtype)
        tangents = {self._names[name]: tensor for name, tensor in moved.items()}
        self._replaying = True
        try:
            with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
                tangent = _tangent(lambda values: self._replay(values, hidden), local, tangents)
        finally:
            self._replaying = False
        return tangent

    def _model_parameters(self, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = dict(self._tail.named_parameters())
        return {name: own[self._names[name]].detach() for name in names}

    def _replay(self, values: dict[str, Tensor], hidden: Tensor) -> Tensor:
        features: Tensor = functional_call(self._tail, values, (hidden, self._pooled_before_norm, self._pool == "mean"))
        return features

    def _pooled_tokens(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        if self._pool == "mean":
            return hidden[:, 1:]
        if self._pool == "first":
            return hidden[:, :1]
        if self._pool == "last":
            return hidden[:, -1:]
        ends = tokens.argmax(dim=-1) if self._pool == "argmax" else (tokens == self._eos).int().argmax(dim=-1)
        return hidden[torch.arange(len(hidden), device=hidden.device), ends].unsqueeze(1)


class _Encoder(nn.Module):
    """One tower as a module whose forward gives unit features."""

    def __init__(self, model: nn.Module, encode: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self._encode = model, encode

    def forward(self, inputs: Tensor) -> Tensor:
        return F.normalize(self._encode(self.model, inputs), dim=-1)


class GeneralTangent:
    """The slow path, for any parameter of a tower: duals through its whole forward, with plain attention."""

    def __init__(self, model: nn.Module, tower: OneTower) -> None:
        """Any parameter of this tower will do."""
        self._tower = tower
        self._encoder = _Encoder(model, _encode_image if tower == "image" else _encode_text)
        self.parameters = tuple(sorted(name for name, _ in model.named_parameters() if tower_of(name) == tower))

    def __call__(self, batch: Batch, direction: Mapping[str, Tensor]) -> Tensor:
        """See `Tangent`."""
        inputs = pixels_of(batch) if self._tower == "image" else batch.tokens
        own = dict(self._encoder.model.named_parameters())
        values = {f"model.{name}": own[name].detach() for name in direction if name in self.parameters}
        tangents = {f"model.{name}": tensor for name, tensor in direction.items() if name in self.parameters}
        was = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # the fused inference kernel has no forward derivative
        try:
            with (
                torch.no_grad(),
                torch.autocast(inputs.device.type, enabled=False),
                sdpa_kernel(SDPBackend.MATH),
            ):
                tangent = _tangent(lambda moved: functional_call(self._encoder, moved, (inputs,)), values, tangents)
        finally:
            torch.backends.mha.set_fastpath_enabled(was)
        return tangent


def _tangent(
    function: Callable[[dict[str, Tensor]], Tensor], at: dict[str, Tensor], along: dict[str, Tensor]
) -> Tensor:
    """Directional derivative by forward-mode differentiation."""
    pair: tuple[Tensor, Tensor] = jvp(function, (at,), (along,))  # type: ignore[assignment]
    return pair[1].detach()


def _encode_image(model: nn.Module, pixels: Tensor) -> Tensor:
    features: Tensor = model.encode_image(pixels)  # type: ignore[operator]
    return features


def _encode_text(model: nn.Module, tokens: Tensor) -> Tensor:
    features: Tensor = model.encode_text(tokens)  # type: ignore[operator]
    return features


def _tower_root(model: nn.Module, tower: OneTower) -> nn.Module:
    if tower == "image":
        root, kind = model.get_submodule("visual"), open_clip.transformer.VisionTransformer
    elif hasattr(model, "text"):
        root, kind = model.get_submodule("text"), open_clip.transformer.TextTransformer
    else:
        return model
    if isinstance(root, kind):
        return root  # type: ignore[no-any-return]
    raise LookupError(f"the {tower} tower is no plain transformer: {type(root).__name__}")


def _pooling(model: nn.Module, root: nn.Module, tower: OneTower) -> tuple[Pool, bool]:
    """How tokens are pooled, and whether before the final norm."""
    if tower == "image":
        if root.attn_pool is not None or root.pool_type not in ("tok", "avg"):
            raise LookupError("the image tower pools by attention")
        return ("first" if root.pool_type == "tok" else "mean"), bool(root.final_ln_after_pool)
    if getattr(root, "cls_emb", None) is not None:
        return "last", True
    pool = model.text_pool_type if root is model else root.pool_type
    if pool not in ("first", "last", "argmax", "eos"):
        raise LookupError(f"the text tower pools by {pool!r}")
    return pool, False  # type: ignore[return-value]


def _names_in_model(model: nn.Module, tail: nn.Module) -> dict[str, str]:
    """Name in the model -> name in the tail, for the parameters that both hold."""
    by_identity = {id(parameter): name for name, parameter in tail.named_parameters()}
    return {
        name: by_identity[id(parameter)] for name, parameter in model.named_parameters() if id(parameter) in by_identity
    }
