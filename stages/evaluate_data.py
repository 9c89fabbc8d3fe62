"""Evaluation sets in the webdataset layout of CLIP_benchmark."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipeline.errors import UserError
from pipeline.stage import ExternalFiles
from pipeline.storage import Storage, join
from stages.formats.tar import Sample, ShardReader

_COUNT = "/test/nshards.txt"
_IMAGES = ("webp", "png", "jpg", "jpeg")


@dataclass(frozen=True)
class DataSet:
    """One task: pictures with class numbers, or pictures with captions."""

    name: str
    """Of the task: the folder's name without `wds_` and `_test`."""
    kind: Literal["classification", "retrieval"]
    shards: tuple[str, ...]
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    """With `{c}` where the class name goes."""


class Example(NamedTuple):
    """One picture of a data set."""

    image: bytes
    label: int
    """Class number; -1 in retrieval."""
    captions: tuple[str, ...]
    """None in classification."""
    where: str


def find_data_sets(data: ExternalFiles, storage: Storage) -> list[DataSet]:
    """All data sets below the folder, by name.

    Raises:
        UserError: there is none, or one is not complete.
    """
    listed = {file.uri for file in data.files}
    roots = sorted(uri.removesuffix(_COUNT) for uri in listed if uri.endswith(_COUNT))
    if not roots:
        raise UserError(
            "no evaluation set there",
            where=data.uri,
            expected="wds_<task>_test/test/nshards.txt, with 0.tar and so on beside it",
            found=f"{len(listed)} files, none of that name",
            next_step="`gradsieve pool make` makes one for the demo; `evaluate: off` does without",
        )
    found = [_open(root, listed, storage) for root in roots]
    names = [data_set.name for data_set in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError("evaluation sets of the same name", where=data.uri, found=", ".join(twice))
    return sorted(found, key=lambda data_set: data_set.name)


def read_examples(data_set: DataSet, storage: Storage) -> Iterator[Example]:
    """Pictures and labels in the order of the shards.

    Raises:
        UserError: a shard is broken, or a sample lacks picture or label.
    """
    for shard in data_set.shards:
        with storage.open(shard) as source:
            for sample in ShardReader(source):
                if sample.fault is not None and sample.fault.reason != "no_end_marker":
                    raise _broken(f"{shard}, {sample.key}", "a whole sample", sample.fault.detail)
                if sample.members:
                    yield _example(sample, data_set, f"{shard}, {sample.key}")


def _example(sample: Sample, data_set: DataSet, where: str) -> Example:
    members = {member.ext: member.data for member in sample.members}
    image = next((members[ext] for ext in _IMAGES if ext in members), None)
    label = members.get("cls" if data_set.kind == "classification" else "txt")
    if image is None or label is None:
        kinds = "cls" if data_set.kind == "classification" else "txt"
        raise _broken(where, f"one of {', '.join(_IMAGES)}, and {kinds}", ", ".join(sorted(members)))
    text = label.decode("utf-8", "replace")
    if data_set.kind == "retrieval":
        captions = tuple(text.splitlines())
        if not captions:
            raise _broken(where, "a caption a line", "an empty file")
        return Example(image, -1, captions, where)
    if not text.strip().isdecimal() or int(text) >= len(data_set.classes):
        raise _broken(where, f"a class number below {len(data_set.classes)}", text[:40])
    return Example(image, int(text), (), where)


def _open(root: str, listed: set[str], storage: Storage) -> DataSet:
    count = _text(root + _COUNT, storage).strip()
    if not count.isdecimal() or int(count) < 1:
        raise _broken(root + _COUNT, "the number of shards", count)
    shards = tuple(join(root, "test", f"{shard}.tar") for shard in range(int(count)))
    missing = [shard for shard in shards if shard not in listed]
    if missing:
        raise _broken(root + _COUNT, f"{count} shards", f"{len(missing)} missing, the first {missing[0]}")
    name = root.rpartition("/")[2].removeprefix("wds_").removesuffix("_test")
    kind = (_lines(join(root, "dataset_type.txt"), listed, storage) or ("classification",))[0].lower()
    if kind == "retrieval":
        return DataSet(name, "retrieval", shards)
    if kind != "classification":
        raise _broken(join(root, "dataset_type.txt"), "classification or retrieval", kind)
    classes = _lines(join(root, "classnames.txt"), listed, storage)
    templates = _lines(join(root, "zeroshot_classification_templates.txt"), listed, storage)
    if not classes or not templates:
        raise _broken(root, "classnames.txt and zeroshot_classification_templates.txt, a line each", "none")
    for template in templates:
        _check_template(template, root)
    return DataSet(name, "classification", shards, classes, templates)


def _check_template(template: str, root: str) -> None:
    try:
        fits = template.format(c="one") != template.format(c="two")
    except (KeyError, IndexError, ValueError):
        fits = False
    if not fits:
        raise _broken(join(root, "zeroshot_classification_templates.txt"), "{c} for the class name", template)


def _lines(uri: str, listed: set[str], storage: Storage) -> tuple[str, ...]:
    if uri not in listed:
        return ()
    return tuple(line.strip() for line in _text(uri, storage).splitlines() if line.strip())


def _text(uri: str, storage: Storage) -> str:
    try:
        return storage.read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise _broken(uri, "text as UTF-8", str(error)) from error


def _broken(where: str, expected: str, found: str) -> UserError:
    return UserError(
        "evaluation set cannot be used", where=where, expected=expected, found=found, next_step="repair or remove it"
    )
