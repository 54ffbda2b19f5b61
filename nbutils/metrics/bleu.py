"""BLEU of captions by sacrebleu: per caption, and over all captions together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU
from sacrebleu.metrics.bleu import BLEUScore

from nbutils.metrics.bootstrap import Score
from nbutils.metrics.words import References, Values, check, split_words


def bleu(captions: Sequence[str], references: References, order: int = 4) -> Values:
    """BLEU of each caption by sacrebleu, against all references of its image at once.

    Lower case, without punctuation, as COCO's caption evaluation prepares captions. A caption is
    short, so orders that it cannot have are left out and the empty ones smoothed (sacrebleu's
    effective order and "exp"). The mean is therefore not the published BLEU, which counts over all
    captions together: that is `corpus_bleu`.

    Parameters
    ----------
    captions : n decoded captions
    references : n lists of reference captions
    order : longest run of words that is compared, 1 to 4

    Returns
    -------
    score : (n,) 0 to 1
    """
    check(captions, references)
    return np.array([
        _sentence_bleu(caption, texts, order).score / 100
        for caption, texts in zip(captions, references, strict=True)
    ])  # fmt: skip


def corpus_bleu(
    captions: Sequence[str],
    references: References,
    order: int = 4,
    n_samples: int = 1000,
    seed: int = 0,
) -> Score:
    """BLEU over all captions together, the published kind, with a bootstrap interval.

    Parameters
    ----------
    captions, references, order : as in `bleu`
    n_samples : resamples of the images
    seed : of the resampling

    Returns
    -------
    score : 0 to 1
    """
    check(captions, references)
    # Counts of each caption; a corpus' score is that of their sum.
    counts = np.array([
        _count_runs(caption, texts, order)
        for caption, texts in zip(captions, references, strict=True)
    ])  # fmt: skip
    picks = np.random.default_rng(seed).integers(len(counts), size=(n_samples, len(counts)))
    drawn = [_bleu_of(counts[rows].sum(axis=0), order) for rows in picks]
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = _bleu_of(counts.sum(axis=0), order)
    return Score(f"BLEU-{order}", value, float(low), float(high), None, None, len(counts))


def _sentence_bleu(caption: str, texts: Sequence[str], order: int) -> BLEUScore:
    plain = [" ".join(split_words(text)) for text in (caption, *texts)]
    scorer = BLEU(tokenize="none", max_ngram_order=order, effective_order=True)
    return scorer.sentence_score(plain[0], plain[1:])


def _count_runs(caption: str, texts: Sequence[str], order: int) -> list[int]:
    found = _sentence_bleu(caption, texts, order)
    return [*found.counts, *found.totals, found.sys_len, found.ref_len]


def _bleu_of(counts: NDArray[np.int64], order: int) -> float:
    matches, totals, lengths = np.split(counts, [order, 2 * order])
    score = BLEU.compute_bleu(
        matches.tolist(), totals.tolist(), *lengths.tolist(), max_ngram_order=order
    )
    return score.score / 100
