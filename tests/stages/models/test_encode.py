import numpy as np
import open_clip
import torch
from PIL import Image

from stages.models.build import build_model, build_tokenizer
from stages.models.encode import encode_images, encode_texts, normalise
from tests.stages.models.tiny import TINY


def _pixels(count):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, 16, 16), dtype=np.uint8))


def test_normalise_equals_open_clips_transform():
    pixels = _pixels(1)
    transform = open_clip.image_transform(16, is_train=False)
    image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    torch.testing.assert_close(normalise(pixels)[0], transform(image), rtol=0, atol=1e-6)


def test_features_are_open_clips_normalised_ones():
    model, pixels = build_model(TINY, seed=0).eval(), _pixels(3)
    tokens = build_tokenizer(TINY)(["one", "two", "a red three"])
    with torch.no_grad():
        images, texts = encode_images(model, pixels), encode_texts(model, tokens)
        torch.testing.assert_close(images, model.encode_image(normalise(pixels), normalize=True))
        torch.testing.assert_close(texts, model.encode_text(tokens, normalize=True))
    assert images.shape == texts.shape == (3, 16)
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(3))


def test_float_pixels_are_taken_as_normalised():
    model, pixels = build_model(TINY, seed=0).eval(), _pixels(2)
    with torch.no_grad():
        assert torch.equal(encode_images(model, pixels), encode_images(model, normalise(pixels)))


def test_half_precision_model_gives_float32_features():
    model = build_model(TINY, seed=0).eval().to(torch.bfloat16)
    with torch.no_grad():
        features = encode_images(model, normalise(_pixels(2)).to(torch.bfloat16))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2))


def test_gradients_flow_to_the_weights():
    model = build_model(TINY, seed=0)
    encode_images(model, _pixels(2)).sum().backward()
    assert model.visual.proj.grad is not None
