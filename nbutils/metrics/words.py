"""Captions as words: what all measures of captions share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from nltk.stem import PorterStemmer
from numpy.typing import NDArray

Values = NDArray[np.float64]
References = Sequence[Sequence[str]]


def split_words(text: str) -> list[str]:
    """Lower-case words of a caption, without punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


@lru_cache(maxsize=8192)
def stem(word: str) -> str:
    """Stem of a word (Porter)."""
    return PorterStemmer().stem(word)


def check(captions: Sequence[str], references: References) -> None:
    """Refuse captions and references that do not pair up.

    Raises
    ------
    ValueError
        If they are not as many, or an image has no reference.
    """
    if len(captions) != len(references):
        raise ValueError(
            f"{len(captions)} captions for {len(references)} images; give the same nsd_ids."
        )
    if any(isinstance(texts, str) or not texts for texts in references):
        raise ValueError("references: give a list with at least one caption for each image.")
