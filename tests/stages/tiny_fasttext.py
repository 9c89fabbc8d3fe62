"""A small supervised fastText model: English against German."""

from pathlib import Path

from fasttext_pybind import args, fasttext, loss_name, model_name, train

ENGLISH = [
    "a photo of a small brown dog in the garden",
    "the cat sits on the table with a red ball",
    "two people walk along the beach at sunset",
    "an old house with a green door and windows",
]
GERMAN = [
    "ein Foto von einem kleinen braunen Hund im Garten",
    "die Katze sitzt auf dem Tisch mit einem roten Ball",
    "zwei Menschen gehen bei Sonnenuntergang am Strand entlang",
    "ein altes Haus mit einer grünen Tür und Fenstern",
]


def train_language_model(folder: Path) -> Path:
    """Train for a moment and save; the path of the model."""
    lines = [f"__label__{label} {text}" for label, texts in (("en", ENGLISH), ("de", GERMAN)) for text in texts]
    source = folder / "train.txt"
    source.write_text("\n".join(lines * 25) + "\n")
    settings = args()
    settings.input, settings.output = str(source), str(folder / "model")
    settings.model, settings.loss = model_name.supervised, loss_name.softmax
    settings.dim, settings.epoch, settings.lr, settings.minCount, settings.thread = 8, 30, 0.5, 1, 1
    settings.minn, settings.maxn, settings.bucket, settings.verbose = 2, 3, 2000, 0
    model = fasttext()
    train(model, settings)
    model.saveModel(str(folder / "model.bin"))
    return folder / "model.bin"
