"""Figures of merit from features: zero-shot accuracy and retrieval, as CLIP_benchmark defines them.

Ties are settled by order: among equal scores the earlier one counts as higher, so that a model whose features are
all alike scores by chance.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_CHUNK_ELEMENTS = 1 << 24
RECALL_AT = (1, 5, 10)


def zero_shot_metrics(images: Tensor, classifier: Tensor, labels: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy of the nearest class vector.

    Args:
        images: unit features, [N, D].
        classifier: unit vectors of the classes, [C, D].
        labels: true classes, [N].

    Returns:
        `acc1`, `acc5` (with five classes or more), `mean_per_class_recall` (over the classes that occur).
    """
    ranks = _ranks(images, classifier, labels)
    correct = ranks == 0
    recall = [correct[labels == label].mean() for label in np.unique(labels)]
    metrics = {"acc1": float(correct.mean())}
    if len(classifier) >= 5:
        metrics["acc5"] = float((ranks < 5).mean())
    return {**metrics, "mean_per_class_recall": float(np.mean(recall))}


def retrieval_metrics(images: Tensor, texts: Tensor, image_of_text: NDArray[np.int64]) -> dict[str, float]:
    """Share of queries with a true match among the k best, both ways.

    Args:
        images: unit features, [N, D].
        texts: unit features, [T, D].
        image_of_text: the image that each text describes, [T]; every image has at least one.

    Returns:
        `image_retrieval_recall@k` (texts ask), `text_retrieval_recall@k` (images ask) for k = 1, 5, 10, and
        `mean_recall@1` of both.
    """
    by_text = _ranks(texts, images, image_of_text)
    by_image = _best_ranks(images, texts, image_of_text)
    metrics = {f"image_retrieval_recall@{k}": float((by_text < k).mean()) for k in RECALL_AT}
    metrics |= {f"text_retrieval_recall@{k}": float((by_image < k).mean()) for k in RECALL_AT}
    mean = (metrics["image_retrieval_recall@1"] + metrics["text_retrieval_recall@1"]) / 2
    return {**metrics, "mean_recall@1": mean}


def _ranks(queries: Tensor, items: Tensor, targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank of each query's one true item, 0 the best; [Q]."""
    ranks = np.empty(len(queries), np.int64)
    for start, scores in _score_chunks(queries, items):
        rows = slice(start, start + len(scores))
        ranks[rows] = _rank_in(scores, targets[rows])
    return ranks


def _best_ranks(queries: Tensor, items: Tensor, query_of_item: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank of each query's best true item, where several items may belong to one query; [Q]."""
    ranks = np.empty(len(queries), np.int64)
    for start, scores in _score_chunks(queries, items):
        rows = np.arange(start, start + len(scores))
        true = query_of_item[None, :] == rows[:, None]  # [q, T]
        best = np.where(true, scores, -np.inf).argmax(axis=1)  # the first of equal ones
        ranks[start : start + len(scores)] = _rank_in(scores, best)
    return ranks


def _rank_in(scores: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Items that score higher than the target, or the same and come before it."""
    own = np.take_along_axis(scores, targets[:, None], axis=1)  # [q, 1]
    before = np.arange(scores.shape[1])[None, :] < targets[:, None]
    ranks: NDArray[np.int64] = ((scores > own) | ((scores == own) & before)).sum(axis=1)
    return ranks


def _score_chunks(queries: Tensor, items: Tensor) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Similarities [q, items] of consecutive queries, with the number of the first."""
    step = max(1, _CHUNK_ELEMENTS // max(1, len(items)))
    for start in range(0, len(queries), step):
        yield start, (queries[start : start + step] @ items.T).numpy()
