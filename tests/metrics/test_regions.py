"""Regions: hits are counted by hand here, from planted readings."""

import numpy as np
import pytest

from nbutils.metrics.regions import tabulate_regions

LABELS = ["face", "place"]
WORDS = {"face": {"man"}, "place": {"house"}}


def test_hits_are_counted_for_regions_with_a_preference_only():
    readings = {
        "faces": np.array([[0.9, 0.1], [0.8, 0.7], [0.2, 0.3]]),
        "V1": np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.4]]),
    }
    captions = {"faces": ["a man smiling", "a red house", "men"]}
    table = tabulate_regions(
        "UniBrain", readings, LABELS, {"faces": "face"}, captions=captions, words=WORDS
    ).set_index("region")
    assert table.loc["faces", ["n", "picture_hits", "caption_hits"]].tolist() == [3, 2, 1]
    assert table.loc["faces", "most_read"] == "face"
    assert table.loc["V1", "most_read"] == "place"
    assert table["agreement"].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert table.loc["V1", ["picture_hits", "caption_hits"]].isna().all()
    assert (table["chance"] == 0.5).all()


def test_readings_of_other_labels_are_refused():
    with pytest.raises(ValueError, match="one column for each of the 2 labels"):
        tabulate_regions("x", {"faces": np.zeros((3, 5))}, LABELS, {})
