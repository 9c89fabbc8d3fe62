"""Weights for the reference: files that are none, do not fit, or run code when they are unpickled."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch

from stages.models.build import build_model
from stages.models.weights import save_state
from tests.bad_input.case import MARKER, Case, Outcome
from tests.bad_input.through import through_reference
from tests.stages.models.tiny import TINY

_Build = Callable[[Path], bytes]


class harmful:  # a value more than a kind
    """Makes a file when it is unpickled."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.root / MARKER,)


@cache
def state() -> dict[str, torch.Tensor]:
    """Weights that fit."""
    return dict(build_model(TINY, seed=1).state_dict())


def checkpoint(value: object, *, zipped: bool = True) -> bytes:
    """What `torch.save` makes of it."""
    sink = io.BytesIO()
    torch.save(value, sink, _use_new_zipfile_serialization=zipped)
    return sink.getvalue()


def _changed(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    joint = {**state(), **changes}
    return {name: value for name, value in joint.items() if value is not None}


def _header(text: bytes, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + data


def _archive(name: str, data: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(name, data)
    return sink.getvalue()


def _far() -> bytes:
    """A tensor that says it lies beyond the end of the file."""
    header = {"logit_scale": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    return _header(json.dumps(header).encode())


def _refuse(name: str, *wanted: str, build: _Build, file: str = "clip.safetensors") -> Case:
    return _case(name, "refused", file, *wanted, build=build, file=file)


def _case(name: str, outcome: Outcome, *wanted: str, build: _Build, file: str) -> Case:
    return Case(name, "reference", outcome, wanted, partial(through_reference, file, build))


CASES: list[Case] = [
    _refuse("pickle with code", build=lambda root: pickle.dumps(harmful(root)), file="clip.pt"),
    _refuse("pickle with code named .safetensors", build=lambda root: pickle.dumps(harmful(root))),
    _refuse("torch checkpoint with code", build=lambda root: checkpoint({"state_dict": harmful(root)}), file="clip.pt"),
    _refuse(
        "old torch checkpoint with code",
        file="clip.bin",
        build=lambda root: checkpoint({"a": harmful(root)}, zipped=False),
    ),
    _refuse(
        "torch checkpoint with code beside the weights",
        file="clip.pt",
        build=lambda root: checkpoint({"state_dict": state(), "args": harmful(root)}),
    ),
    _refuse(
        "zip with a pickle", file="clip.pt", build=lambda root: _archive("x/data.pkl", pickle.dumps(harmful(root)))
    ),
    _refuse("zip of something else", file="clip.pt", build=lambda root: _archive("readme.txt", b"hello")),
    _refuse("empty file", build=lambda root: b""),
    _refuse("empty torch checkpoint", build=lambda root: b"", file="clip.pt"),
    _refuse("HTML", build=lambda root: b"<!doctype html><title>404</title>"),
    _refuse(
        "Git LFS pointer", build=lambda root: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    ),
    _refuse("safetensors cut in the middle", build=lambda root: save_state(state())[:-500]),
    _refuse("safetensors cut in its header", build=lambda root: save_state(state())[:300]),
    _refuse("safetensors without its last byte", build=lambda root: save_state(state())[:-1]),
    _refuse("safetensors header that is no JSON", build=lambda root: _header(b"{nothing of the sort}", bytes(90))),
    _refuse("safetensors header of 2^60 bytes", build=lambda root: (1 << 60).to_bytes(8, "little") + b"{}" * 90),
    _refuse("safetensors tensor beyond the end", build=lambda root: _far()),
    _refuse("safetensors without tensors", build=lambda root: save_state({})),
    _refuse("torch checkpoint cut", build=lambda root: checkpoint(state())[:-500], file="clip.pt"),
    _refuse("torch checkpoint of a list", build=lambda root: checkpoint([1, 2]), file="clip.pt"),
    _refuse("torch checkpoint of one tensor", build=lambda root: checkpoint(torch.zeros(3)), file="clip.pt"),
    _refuse("torch checkpoint without weights", build=lambda root: checkpoint({"state_dict": {}}), file="clip.pt"),
    _refuse(
        "torch checkpoint with numbers as names", build=lambda root: checkpoint({1: torch.zeros(2)}), file="clip.pt"
    ),
    _refuse(
        "a parameter of another shape",
        "visual.proj",
        "[3, 3]",
        build=lambda root: save_state(_changed(**{"visual.proj": torch.zeros(3, 3)})),
    ),
    _refuse(
        "a parameter is missing",
        "visual.proj",
        "absent",
        build=lambda root: save_state(_changed(**{"visual.proj": None})),
    ),
    _refuse("a parameter too many", "extra", "absent", build=lambda root: save_state(_changed(extra=torch.zeros(2)))),
    _refuse(
        "logit scale of another shape",
        "logit_scale",
        build=lambda root: save_state(_changed(logit_scale=torch.zeros(3))),
    ),
    _refuse("weights of another model", "parameters", build=lambda root: save_state({"layer.weight": torch.zeros(4)})),
    _refuse(
        "NaN in a parameter",
        "visual.proj",
        "NaN",
        build=lambda root: save_state(_changed(**{"visual.proj": state()["visual.proj"] * float("nan")})),
    ),
    _refuse(
        "infinity in a parameter",
        "visual.proj",
        build=lambda root: save_state(_changed(**{"visual.proj": state()["visual.proj"] + float("inf")})),
    ),
    _case(
        "weights of data-parallel training",
        "accepted",
        file="clip.pt",
        build=lambda root: checkpoint({"state_dict": {f"module.{name}": value for name, value in state().items()}}),
    ),
    _case("old torch checkpoint", "accepted", file="clip.bin", build=lambda root: checkpoint(state(), zipped=False)),
]
