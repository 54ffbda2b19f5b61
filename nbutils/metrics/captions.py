"""Measures of decoded captions, one value per image.

METEOR, ROUGE and content F1 take the best of an image's reference captions, as nltk's METEOR and
rouge-score's multi-reference ROUGE do; BLEU counts over all of them. CIDEr and SPICE are not
offered: the implementation in common use, COCO's, needs Java for SPICE and for its tokeniser.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from nltk.tokenize import NLTKWordTokenizer
from nltk.translate.meteor_score import meteor_score
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from nbutils.metrics.bleu import bleu
from nbutils.metrics.bootstrap import mismatch
from nbutils.metrics.identification import identify
from nbutils.metrics.words import References, Values, check, split_words, stem

FRAME_WORDS = frozenset({"photo", "photograph", "picture", "image", "view", "close", "shows"})
"""Words about the picture, not about what is in it; content F1 leaves them out."""


class _NoSynonyms:
    """Stands for WordNet, whose data are a download of their own, and knows no synonym."""

    def synsets(self, word: str) -> tuple:
        return ()


def meteor_exact_stem(captions: Sequence[str], references: References) -> Values:
    """METEOR with exact and stemmed matches, without WordNet's synonyms.

    nltk's ``meteor_score`` (alpha .9, beta 3, gamma .5). Its synonym stage needs the WordNet
    corpus, which must be downloaded apart (`nbutils.metrics.wordnet`); without it a score is at
    most a little lower than the published kind, so it has a name of its own and is not put beside
    published values.

    Parameters
    ----------
    captions : n decoded captions
    references : n lists of reference captions

    Returns
    -------
    score : (n,)
    """
    check(captions, references)
    none = _NoSynonyms()
    values = [
        meteor_score([split_words(text) for text in texts], split_words(caption), wordnet=none)
        for caption, texts in zip(captions, references, strict=True)
    ]
    return np.asarray(values, dtype=np.float64)


def meteor(captions: Sequence[str], references: References, wordnet: Any) -> Values:
    """METEOR with WordNet's synonyms, as Hugging Face's evaluate computes it.

    nltk's ``meteor_score`` (alpha .9, beta 3, gamma .5) on nltk's words, punctuation included;
    evaluate also splits sentences first, which changes nothing for captions of one sentence. The
    Java METEOR of COCO's caption evaluation is on a lower scale.

    Parameters
    ----------
    captions, references : as in `meteor_exact_stem`
    wordnet : what `nbutils.metrics.wordnet.open_wordnet` returns

    Returns
    -------
    score : (n,)
    """
    check(captions, references)
    split = NLTKWordTokenizer().tokenize
    values = [
        meteor_score([split(text) for text in texts], split(caption), wordnet=wordnet)
        for caption, texts in zip(captions, references, strict=True)
    ]
    return np.asarray(values, dtype=np.float64)


def rouge(captions: Sequence[str], references: References, kind: str = "rougeL") -> Values:
    """ROUGE F-measure, without stemming, as ``rouge-score`` and Hugging Face's evaluate.

    Parameters
    ----------
    captions, references : as in `meteor_exact_stem`
    kind : "rouge1" (words) or "rougeL" (longest common subsequence)
    """
    if kind not in ("rouge1", "rougeL"):
        raise ValueError(f"rouge kind={kind!r}: choose rouge1 or rougeL.")
    check(captions, references)
    scorer = RougeScorer([kind])
    values = [
        scorer.score_multi(list(texts), caption)[kind].fmeasure
        for caption, texts in zip(captions, references, strict=True)
    ]
    return np.asarray(values, dtype=np.float64)


def content_f1(captions: Sequence[str], references: References) -> Values:
    """F1 of the sets of content words (stems; function and frame words left out).

    Parameters
    ----------
    captions, references : as in `meteor_exact_stem`

    Returns
    -------
    f1 : (n,) against the best reference
    """
    check(captions, references)
    return np.array([
        max(_set_f1(content_words(caption), content_words(text)) for text in texts)
        for caption, texts in zip(captions, references, strict=True)
    ])  # fmt: skip


def content_words(text: str) -> frozenset[str]:
    """Stems of the words that say something about the content."""
    words = (w for w in split_words(text) if w not in ENGLISH_STOP_WORDS and w not in FRAME_WORDS)
    return frozenset(stem(word) for word in words)


def category_named(
    captions: Sequence[str],
    categories: Sequence[Collection[str]],
    words: Mapping[str, Collection[str]],
) -> Values:
    """Does a caption name a category that is in the image?

    Parameters
    ----------
    captions : n decoded captions
    categories : n collections of categories in the presented images
    words : category -> words that name it

    Returns
    -------
    named : (n,) 0 or 1

    Raises
    ------
    ValueError
        If numbers differ or a category has no words.
    """
    if len(captions) != len(categories):
        raise ValueError(f"{len(captions)} captions for {len(categories)} images; give one each.")
    unknown = sorted({name for row in categories for name in row} - set(words))
    if unknown:
        raise ValueError(f"category {unknown[0]!r} has no words; known: {', '.join(words)}.")
    stems = {name: {stem(word.lower()) for word in group} for name, group in words.items()}
    said = [{stem(word) for word in split_words(caption)} for caption in captions]
    return np.array([
        float(any(stems[name] & found for name in row))
        for found, row in zip(said, categories, strict=True)
    ])  # fmt: skip


def identify_captions(clip: Any, captions: Sequence[str], references: References) -> Values:
    """Two-way identification of captions in CLIP's text space, distractors ground truths.

    UniBrain reports a "CLIP" score of captions without definition; this is the reading that fits
    its values (85 %, where cosines of the same model are near 64 %). A reference is the mean of
    the embeddings of an image's captions.

    Parameters
    ----------
    clip : `ClipEncoder`
    captions, references : as in `meteor_exact_stem`

    Returns
    -------
    rate : (n,) part of the n - 1 comparisons won
    """
    check(captions, references)
    return identify(_embed_references(clip, references), _embed(clip, captions))


def clip_cosine(clip: Any, captions: Sequence[str], references: References) -> Values:
    """Cosine of a caption with the references in CLIP's text space, mean over the references.

    MindEye2 reports such cosines as "CLIP-B" and "CLIP-L". They are not two-way identification,
    although both have stood in one column of a table.

    Parameters
    ----------
    clip, captions, references : as in `identify_captions`

    Returns
    -------
    cosine : (n,)
    """
    check(captions, references)
    return _mean_cosine(_embed_references(clip, references), _embed(clip, captions))


class CaptionJudge:
    """Everything that captions of one set of images are measured by.

    Parameters
    ----------
    references : n lists of reference captions
    clip : `ClipEncoder` or None
    categories : n collections of categories in the images, or None
    words : category -> words that name it; needed with `categories`
    wordnet : for METEOR with synonyms, see `nbutils.metrics.wordnet.open_wordnet`; or None
    """

    def __init__(
        self,
        references: References,
        *,
        clip: Any = None,
        categories: Sequence[Collection[str]] | None = None,
        words: Mapping[str, Collection[str]] | None = None,
        wordnet: Any = None,
    ) -> None:
        if categories is not None and words is None:
            raise ValueError("categories are given without the words that name them.")
        self.references = [list(texts) for texts in references]
        self.clip, self.categories, self.words = clip, categories, words
        self.wordnet = wordnet
        self._truth = None if clip is None else _embed_references(clip, references)

    def measure(self, captions: Sequence[str]) -> dict[str, Values]:
        """Measure captions, in the order of the references: measure -> (n,)."""
        check(captions, self.references)
        found = self._look(captions)
        values = self._compare(captions, found, np.arange(len(captions)))
        if found is not None:
            values["two-way CLIP text"] = identify(self._truth, found)
        return values

    def measure_chance(
        self, captions: Sequence[str], repeats: int = 5, seed: int = 0
    ) -> dict[str, Values]:
        """Measure captions against other images than their own; see `ImageJudge`."""
        n = len(captions)
        check(captions, self.references)
        found = self._look(captions)
        names = list(self._compare(captions, found, np.arange(n)))

        def stack(order: NDArray) -> NDArray:
            return np.stack(list(self._compare(captions, found, order).values()), axis=1)

        chance = dict(zip(names, mismatch(stack, n, repeats, seed).T, strict=True))
        return chance if found is None else {**chance, "two-way CLIP text": np.full(n, 0.5)}

    def _look(self, captions: Sequence[str]) -> NDArray | None:
        return None if self.clip is None else _embed(self.clip, captions)

    def _compare(
        self, captions: Sequence[str], found: NDArray | None, order: NDArray[np.int64]
    ) -> dict[str, Values]:
        references = [self.references[i] for i in order]
        values = {"METEOR (exact, stem)": meteor_exact_stem(captions, references)}
        if self.wordnet is not None:
            values["METEOR"] = meteor(captions, references, self.wordnet)
        values |= {
            "ROUGE-1": rouge(captions, references, "rouge1"),
            "ROUGE-L": rouge(captions, references, "rougeL"),
            "BLEU-1 (per caption)": bleu(captions, references, 1),
            "BLEU-4 (per caption)": bleu(captions, references, 4),
            "content F1": content_f1(captions, references),
        }
        if self.categories is not None:
            categories = [self.categories[i] for i in order]
            values["category named"] = category_named(captions, categories, self.words)
        if found is not None:
            values["CLIP text cosine"] = _mean_cosine(self._truth[order], found)
        return values


def _mean_cosine(references: NDArray, found: NDArray) -> Values:
    """Embeddings have unit norm, so the mean of the cosines is the cosine with their mean."""
    return (references.astype(np.float64) * found).sum(axis=1)


def _set_f1(first: frozenset[str], second: frozenset[str]) -> float:
    total = len(first) + len(second)
    return 2 * len(first & second) / total if total else 0.0


def _embed(clip: Any, captions: Sequence[str], batch_size: int = 256) -> NDArray[np.float32]:
    parts = [clip.text_embedding(list(batch)) for batch in _batches(captions, batch_size)]
    return np.concatenate([part.float().cpu().numpy() for part in parts])


def _embed_references(clip: Any, references: References) -> NDArray[np.float32]:
    flat = _embed(clip, [text for texts in references for text in texts])
    ends = np.cumsum([len(texts) for texts in references])
    return np.stack([part.mean(axis=0) for part in np.split(flat, ends[:-1])])


def _batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
