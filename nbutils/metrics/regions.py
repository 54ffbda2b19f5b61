"""What the pictures and sentences of synthetic regions show, by a judge's reading."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from nbutils.metrics.captions import category_named


def tabulate_regions(
    system: str,
    readings: Mapping[str, ArrayLike],
    labels: Sequence[str],
    preferred: Mapping[str, str],
    *,
    captions: Mapping[str, Sequence[str]] | None = None,
    words: Mapping[str, Collection[str]] | None = None,
) -> pd.DataFrame:
    """Count how often a region's pictures and sentences show what it is said to prefer.

    Parameters
    ----------
    system : name of the system that painted them
    readings : region -> (n, n_labels) probability of each label in each of its pictures
    labels : categories
    preferred : region -> category; regions that are not in it have no expected category
    captions : region -> sentences
    words : category -> words that name it; without them captions are not counted

    Returns
    -------
    table : a row per region: system, region, n, most_read (label of most pictures), agreement (its
        share), preferred, picture_hits, caption_hits, chance (of a hit, 1 / number of labels).
        Hits are missing where nothing is expected.

    Raises
    ------
    ValueError
        If a reading does not have one column for each label.
    """
    rows = []
    for region, probabilities in readings.items():
        probabilities = np.asarray(probabilities)
        if probabilities.ndim != 2 or probabilities.shape[1] != len(labels):
            raise ValueError(
                f"readings of {region!r} have shape {probabilities.shape}; give one "
                f"column for each of the {len(labels)} labels."
            )
        first = np.array(labels)[probabilities.argmax(axis=1)]
        counts = pd.Series(first).value_counts()
        wanted = preferred.get(region)
        sentences = (captions or {}).get(region)
        said = None
        if wanted and words and sentences is not None:
            said = int(category_named(sentences, [[wanted]] * len(sentences), words).sum())
        rows.append({
            "system": system, "region": region, "n": len(first), "most_read": counts.index[0],
            "agreement": counts.iloc[0] / len(first), "preferred": wanted,
            "picture_hits": int((first == wanted).sum()) if wanted else None,
            "caption_hits": said, "chance": 1 / len(labels),
        })  # fmt: skip
    counted = {"picture_hits": "Int64", "caption_hits": "Int64"}
    return pd.DataFrame(rows).astype(counted)
