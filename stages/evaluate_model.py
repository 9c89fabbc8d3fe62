"""Evaluate one model on all data sets: the task that runs somewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.artifact import Artifact
from pipeline.errors import RunError, UserError
from pipeline.storage import Storage
from stages.evaluate_config import EvaluateConfig
from stages.evaluate_data import DataSet, Example, read_examples
from stages.evaluate_metrics import retrieval_metrics, zero_shot_metrics
from stages.formats.image import ImageError, decode_image
from stages.models.build import Tokenizer, build_model, build_tokenizer
from stages.models.encode import encode_images, encode_texts
from stages.models.threads import fixed_threads
from stages.models.weights import CONFIG_NAME, check_shapes, load_state, read_config

_MODEL = "model/"


@dataclass(frozen=True)
class ModelFile:
    """Weights inside an artifact."""

    artifact: Artifact
    path: str

    @property
    def content(self) -> tuple[str, str]:
        """Digests of weights and config: equal ones are the same model."""
        digests = {file.path: file.sha256 for file in self.artifact.manifest.files}
        return digests[self.path], digests[_MODEL + CONFIG_NAME]


@dataclass(frozen=True)
class Evaluator:
    """Everything but the model; picklable."""

    config: EvaluateConfig
    data_sets: tuple[DataSet, ...]
    storage: Storage

    def __call__(self, file: ModelFile) -> dict[str, dict[str, float]]:
        """Metrics by data set."""
        with fixed_threads(self.config.threads), torch.inference_mode():
            encoder = _Encoder.load(file, self.config)
            return {data_set.name: self._evaluate(encoder, data_set) for data_set in self.data_sets}

    def _evaluate(self, encoder: "_Encoder", data_set: DataSet) -> dict[str, float]:
        features, labels, captions = [], [], []
        for examples in _batches(read_examples(data_set, self.storage), self.config.batch_size):
            features.append(encoder.images(examples))
            labels += [example.label for example in examples]
            captions += [example.captions for example in examples]
        if not features:
            raise UserError("evaluation set is empty", where=data_set.shards[0])
        images = torch.cat(features)
        if data_set.kind == "classification":
            return zero_shot_metrics(images, encoder.classifier(data_set), np.array(labels, np.int64))
        image_of_text = np.repeat(np.arange(len(captions)), [len(of_image) for of_image in captions])
        texts = encoder.texts([caption for of_image in captions for caption in of_image])
        return retrieval_metrics(images, texts, image_of_text)


@dataclass(frozen=True)
class _Encoder:
    """A model, ready to encode; features come back to the CPU."""

    model: open_clip.CLIP
    tokenizer: Tokenizer
    image_size: int
    config: EvaluateConfig
    where: str
    """The file of its weights."""

    @classmethod
    def load(cls, file: ModelFile, config: EvaluateConfig) -> "_Encoder":
        model_config = read_config(file.artifact.read_bytes(_MODEL + CONFIG_NAME))
        model = build_model(model_config, seed=0)
        state = load_state(file.artifact.read_bytes(file.path), file.artifact.uri(file.path))
        check_shapes(state, model, where=file.artifact.uri(file.path))
        model.load_state_dict(state)
        ready = model.eval().to(config.device)
        where = file.artifact.uri(file.path)
        return cls(ready, build_tokenizer(model_config), model_config.image_size, config, where)

    def images(self, examples: Sequence[Example]) -> Tensor:
        """Unit features, [B, D]."""
        pixels = np.stack([self._pixels(example) for example in examples])
        features = encode_images(self.model, torch.from_numpy(pixels).to(self.config.device))
        return _finite(features.cpu(), self.where)

    def texts(self, captions: Sequence[str]) -> Tensor:
        """Unit features, [T, D]."""
        step = self.config.batch_size
        parts = [self.tokenizer(list(captions[at : at + step])) for at in range(0, len(captions), step)]
        features = [encode_texts(self.model, tokens.to(self.config.device)).cpu() for tokens in parts]
        return _finite(torch.cat(features), self.where)

    def classifier(self, data_set: DataSet) -> Tensor:
        """A unit vector a class: the mean of its templates' unit features, scaled to length 1; [C, D]."""
        vectors = []
        for name in data_set.classes:
            features = self.texts([template.format(c=name) for template in data_set.templates])
            vectors.append(F.normalize(features.mean(dim=0), dim=-1))
        return torch.stack(vectors)

    def _pixels(self, example: Example) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
        try:
            return decode_image(example.image, self.image_size)
        except ImageError as error:
            raise UserError(
                "evaluation set cannot be used", where=example.where, expected="a whole picture", found=error
            ) from error


def _finite(features: Tensor, where: str) -> Tensor:
    """The features, if they are numbers: NaN compares with nothing, and would rank first everywhere."""
    if not bool(torch.isfinite(features).all()):
        raise RunError(
            "a model's features are no numbers",
            where=where,
            expected="finite features",
            found="NaN",
            next_step="the training diverged: lower its learning rate, or clip its gradients",
        )
    return features


def _batches(examples: Iterator[Example], size: int) -> Iterator[list[Example]]:
    while batch := list(islice(examples, size)):
        yield batch
