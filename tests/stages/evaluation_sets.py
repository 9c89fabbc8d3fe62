"""Small evaluation sets and models, for tests."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages.formats.tar import tar_bytes
from stages.models.build import build_model, build_tokenizer
from stages.models.encode import encode_images, encode_texts
from stages.models.weights import model_files, save_state
from tests.artifacts import commit
from tests.stages.models.tiny import TINY

COLOURS = {"red": (220, 20, 20), "green": (20, 180, 20), "blue": (20, 20, 220), "white": (250,) * 3, "black": (5,) * 3}
TEMPLATES = ("a {c} thing", "photo of {c}")


def picture(colour, seed=0):
    noise = np.random.default_rng(seed).normal(0, 10, (20, 24, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def write_set(root, examples, ending, shards=1, **side_files):
    """Examples are (picture, label) pairs, dealt to the shards in turn."""
    (root / "test").mkdir(parents=True)
    (root / "test" / "nshards.txt").write_text(f"{shards}\n")
    for name, text in side_files.items():
        (root / f"{name}.txt").write_text(text)
    for shard in range(shards):
        members = []
        for index, (image, label) in list(enumerate(examples))[shard::shards]:
            members += [(f"s{index:07d}.{ending}", label.encode()), (f"s{index:07d}.png", image)]
        (root / "test" / f"{shard}.tar").write_bytes(tar_bytes(members))


def write_sets(root, per_class=3):
    """Colours to classify, and pairs to retrieve (the first picture with two captions)."""
    examples = [(picture(c, 10 * i + k), str(i)) for k in range(per_class) for i, c in enumerate(COLOURS)]
    names, templates = "\n".join(COLOURS) + "\n", "\n".join(TEMPLATES) + "\n"
    write_set(
        root / "wds_colours_test", examples, "cls", 2, classnames=names, zeroshot_classification_templates=templates
    )
    pairs = [(picture(c, 99), f"a {c} thing" + ("\nphoto of red" if c == "red" else "")) for c in COLOURS]
    write_set(root / "wds_pairs_test", pairs, "txt", dataset_type="retrieval\n")


def pixels_of(examples):
    from stages.formats.image import decode_image

    return torch.from_numpy(np.stack([decode_image(image, TINY.image_size) for image in examples]))


def knowing_model():
    """A tiny model that has learnt the colours by heart."""
    model, tokenizer = build_model(TINY, seed=0), build_tokenizer(TINY)
    images = pixels_of([picture(colour, seed) for seed in range(4) for colour in COLOURS])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        texts = encode_texts(model, tokenizer([TEMPLATES[step % 2].format(c=colour) for colour in COLOURS]))
        features = encode_images(model, images[(step % 4) * 5 : (step % 4) * 5 + 5])
        logits = model.logit_scale.exp() * features @ texts.T
        loss = F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def training(root, name, model, epochs=()):
    """A committed training artifact with a final model and models of epochs."""
    from pipeline.artifact import ArtifactWriter

    writer = ArtifactWriter(str(root), Storage())
    files = [writer.put_bytes(f"model/{file}", data) for file, data in model_files(model, TINY).items()]
    for epoch, of_epoch in enumerate(epochs):
        data = save_state(of_epoch.state_dict())
        files.append(writer.put_bytes(f"models/epoch-{epoch:03d}.safetensors", data))
    return commit(root, name, StageResult(tuple(files)))
