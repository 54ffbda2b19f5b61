"""BLEU against sacrebleu's corpus score and nltk's, and worked out by hand."""

import numpy as np
import pytest
from nltk.translate.bleu_score import corpus_bleu as nltk_bleu
from sacrebleu.metrics import BLEU

from nbutils.metrics.bleu import bleu, corpus_bleu

CAPTIONS = [
    "A man riding a horse on the beach.",
    "two cats sleep on a sofa",
    "a red bus in the busy city street",
    "a plate of food with broccoli",
]
REFERENCES = [
    ["a man riding a brown horse on the beach", "A person on a horse, near the sea."],
    ["two cats sleep on the sofa"],
    ["a red bus drives in the busy city street", "the bus", "a bus on a street at night"],
    ["a white plate of food with green broccoli", "broccoli"],
]


def plain(text):
    return text.lower().replace(".", "").replace(",", "")


@pytest.mark.parametrize("order", [1, 4])
def test_corpus_score_is_sacrebleus(order):
    streams = [[plain(t[k]) if k < len(t) else None for t in REFERENCES] for k in range(3)]
    reference = BLEU(tokenize="none", max_ngram_order=order)
    expected = reference.corpus_score([plain(text) for text in CAPTIONS], streams).score / 100
    found = corpus_bleu(CAPTIONS, REFERENCES, order)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.name == f"BLEU-{order}" and found.low <= found.value <= found.high


@pytest.mark.parametrize("order", [1, 4])
def test_corpus_score_is_nltks(order):
    lists = [[plain(text).split() for text in texts] for texts in REFERENCES]
    weights = [1 / order] * order
    expected = nltk_bleu(lists, [plain(text).split() for text in CAPTIONS], weights)
    assert corpus_bleu(CAPTIONS, REFERENCES, order).value == pytest.approx(expected, abs=1e-9)


def test_caption_score_by_hand():
    # "a red bus" in "a red car": 2 of 3 words, as long as the reference.
    assert bleu(["A red bus!"], [["a red car"]], 1)[0] == pytest.approx(2 / 3)
    # Two of three words right but the reference has four: brevity penalty exp(1 - 4/3).
    expected = np.exp(1 - 4 / 3) * 2 / 3
    assert bleu(["a red bus"], [["a red car here"]], 1)[0] == pytest.approx(expected)
    np.testing.assert_allclose(bleu(["a dog", ""], [["a dog", "two"], ["x"]], 4), [1, 0])


def test_interval_covers_what_other_images_would_give():
    rng = np.random.default_rng(0)
    words = np.array("a dog on the green grass with one red ball".split())
    captions = [" ".join(rng.choice(words, 6)) for _ in range(200)]
    references = [[" ".join(rng.choice(words, 6))] for _ in range(200)]
    found = corpus_bleu(captions, references, 1, n_samples=300)
    halves = [corpus_bleu(captions[k::2], references[k::2], 1, 2).value for k in (0, 1)]
    assert found.low < np.mean(halves) < found.high
    assert found.high - found.low < 0.1
