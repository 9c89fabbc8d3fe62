import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

import stages.evaluate_metrics as metrics
from stages.evaluate_metrics import retrieval_metrics, zero_shot_metrics


def _unit(rng, rows, width=6):
    features = torch.from_numpy(rng.normal(size=(rows, width)).astype(np.float32))
    return torch.nn.functional.normalize(features, dim=-1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(5, 9), st.integers(9, 40))
def test_zero_shot_equals_scikit_learn(seed, num_classes, num_images):
    rng = np.random.default_rng(seed)
    images, classes = _unit(rng, num_images), _unit(rng, num_classes)
    labels = np.concatenate([np.arange(num_classes), rng.integers(num_classes, size=num_images - num_classes)])
    found = zero_shot_metrics(images, classes, labels)
    scores = (images @ classes.T).numpy()
    for k in (1, 5):
        expected = top_k_accuracy_score(labels, scores, k=k, labels=np.arange(num_classes))
        assert found[f"acc{k}"] == pytest.approx(expected)
    assert found["mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))


def test_top_five_needs_five_classes():
    rng = np.random.default_rng(0)
    assert "acc5" not in zero_shot_metrics(_unit(rng, 4), _unit(rng, 4), np.array([0, 1, 2, 3]))


def _recall_by_sorting(scores, true, k):
    """Straight from the definition: sort each query's items, look for a true one among the first k."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.mean([any(true[query, item] for item in order[query, :k]) for query in range(len(scores))])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(0, 20), st.booleans())
def test_retrieval_equals_sorting(seed, num_images, more_texts, coarse):
    rng = np.random.default_rng(seed)
    of_text = np.concatenate([np.arange(num_images), rng.integers(num_images, size=more_texts)])
    rng.shuffle(of_text)
    images, texts = _unit(rng, num_images), _unit(rng, len(of_text))
    if coarse:  # many ties, exactly representable
        images, texts = images.sign(), texts.sign()
    found = retrieval_metrics(images, texts, of_text)
    scores = (images @ texts.T).numpy()
    true = of_text[None, :] == np.arange(num_images)[:, None]
    for k in (1, 5, 10):
        assert found[f"text_retrieval_recall@{k}"] == pytest.approx(_recall_by_sorting(scores, true, k))
        assert found[f"image_retrieval_recall@{k}"] == pytest.approx(_recall_by_sorting(scores.T, true.T, k))
    mean = (found["text_retrieval_recall@1"] + found["image_retrieval_recall@1"]) / 2
    assert found["mean_recall@1"] == pytest.approx(mean)


def test_retrieval_golden_values():
    images = torch.eye(4)
    texts = torch.eye(4)[[0, 1, 3, 2]]  # the last two captions are exchanged
    found = retrieval_metrics(images, texts, np.arange(4))
    assert found["image_retrieval_recall@1"] == found["text_retrieval_recall@1"] == found["mean_recall@1"] == 0.5
    assert found["text_retrieval_recall@5"] == 1.0


def test_features_all_alike_score_by_chance():
    same = torch.nn.functional.normalize(torch.ones(20, 3), dim=-1)
    found = retrieval_metrics(same, same, np.arange(20))
    assert (found["mean_recall@1"], found["text_retrieval_recall@10"]) == (0.05, 0.5)
    labels = np.arange(20) % 10
    assert zero_shot_metrics(same, same[:10], labels)["acc1"] == pytest.approx(0.1)


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    images, texts = _unit(rng, 37), _unit(rng, 37)
    whole = retrieval_metrics(images, texts, np.arange(37))
    monkeypatch.setattr(metrics, "_CHUNK_ELEMENTS", 37 * 5)
    assert retrieval_metrics(images, texts, np.arange(37)) == whole


def _rank_by_definition(scores, target):
    """Items that are better, or as good and earlier."""
    return sum(
        score > scores[target] or (score == scores[target] and item < target) for item, score in enumerate(scores)
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 25))
def test_zero_shot_with_ties_equals_the_definition(seed, num_classes, num_images):
    rng = np.random.default_rng(seed)
    images, classes = (
        torch.from_numpy(rng.integers(-1, 2, (n, 3)).astype(np.float32)) for n in (num_images, num_classes)
    )
    labels = rng.integers(num_classes, size=num_images)
    found = zero_shot_metrics(images, classes, labels)
    scores = (images @ classes.T).numpy()
    ranks = np.array([_rank_by_definition(row, label) for row, label in zip(scores, labels, strict=True)])
    assert found["acc1"] == pytest.approx((ranks == 0).mean())
    assert ("acc5" in found) == (num_classes >= 5)
    if "acc5" in found:
        assert found["acc5"] == pytest.approx((ranks < 5).mean())
    by_class = [np.mean(ranks[labels == label] == 0) for label in sorted(set(labels.tolist()))]
    assert found["mean_per_class_recall"] == pytest.approx(np.mean(by_class))


def test_mean_per_class_recall_weighs_rare_classes_as_much():
    images = torch.eye(2)[[0] * 9 + [0]]
    found = zero_shot_metrics(images, torch.eye(2), np.array([0] * 9 + [1]))
    assert (found["acc1"], found["mean_per_class_recall"]) == (0.9, 0.5)


def test_class_that_no_picture_shows_counts_for_nothing():
    images, labels = torch.eye(3)[[0, 1]], np.array([0, 1])
    assert zero_shot_metrics(images, torch.eye(3), labels)["mean_per_class_recall"] == 1.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 20))
def test_retrieval_does_not_depend_on_the_order_of_distinct_pairs(seed, number):
    rng = np.random.default_rng(seed)
    images, texts = _unit(rng, number, 16), _unit(rng, number, 16)
    order = rng.permutation(number)
    straight = retrieval_metrics(images, texts, np.arange(number))
    turned = retrieval_metrics(images[order], texts[order], np.arange(number))
    assert turned == pytest.approx(straight)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30))
def test_recall_grows_with_k_and_ends_at_one(seed, number):
    rng = np.random.default_rng(seed)
    found = retrieval_metrics(_unit(rng, number), _unit(rng, number), np.arange(number))
    for way in ("image", "text"):
        by_k = [found[f"{way}_retrieval_recall@{k}"] for k in metrics.RECALL_AT]
        assert 0 <= by_k[0] <= by_k[1] <= by_k[2] <= 1
        assert number > 10 or by_k[2] == 1.0


def test_image_with_several_captions_is_found_by_its_best_one():
    images = torch.eye(3)
    texts = torch.nn.functional.normalize(torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 1, 0.1], [0, 0, 1]]), dim=-1)
    found = retrieval_metrics(images, texts, np.array([0, 0, 1, 2]))  # the first caption of image 0 is wrong
    assert found["text_retrieval_recall@1"] == pytest.approx(2 / 3)  # image 1 is nearest to that wrong caption
    assert found["image_retrieval_recall@1"] == pytest.approx(3 / 4)
