"""Published tables: anchors that the sources quote more than once, and their form."""

import numpy as np
import pytest

from nbutils.metrics.published import TABLES, PublishedTable, find_table


def test_every_table_names_its_source_and_its_columns():
    for name, table in TABLES.items():
        assert "20" in table.source, name
        frame = table.to_frame()
        assert frame.shape == (len(table.rows), len(table.columns))
        assert frame.attrs["source"] == table.source


def test_numbers_lie_in_the_range_of_their_measure():
    for table in TABLES.values():
        frame = table.to_frame()
        for column in frame:
            values = frame[column].dropna()
            percent = column.startswith(("Alex", "Incep", "CLIP", "CNN", "Sent"))
            assert values.between(40 if percent else 0, 100 if percent else 1).all(), column


def test_unibrain_is_best_or_second_in_its_own_table():
    frame = find_table("unibrain_images").to_frame()
    assert frame.loc["UniBrain", "PixCorr"] == 0.249
    assert frame.loc["UniBrain", "CLIP"] == frame["CLIP"].max() == 92.3
    assert frame.loc["UniBrain", "SwAV"] == frame["SwAV"].min() == 0.407


def test_published_dissociation_of_latent_and_contexts():
    frame = find_table("unibrain_image_ablation").to_frame()
    assert frame["PixCorr"].idxmax() == frame["SSIM"].idxmax() == "only Z_I"
    assert frame["CLIP"].idxmin() == "only Z_I"
    gain = frame.loc["UniBrain", "PixCorr"] - frame.loc["without Z_I", "PixCorr"]
    assert gain == pytest.approx(0.237)


def test_tables_that_quote_each_other_agree():
    ablation = find_table("unibrain_caption_ablation").to_frame().loc["UniBrain"]
    quoted = find_table("mindeye2_captions").to_frame().loc["UniBrain"]
    for column in ("METEOR", "ROUGE-1", "ROUGE-L"):
        assert ablation[column] == quoted[column]
    assert ablation["CLIP"] == quoted["CLIP-L"]


def test_missing_numbers_are_nan_and_bad_tables_refused():
    frame = find_table("brain_diffuser_images").to_frame()
    assert np.isnan(frame.loc["subject 1", "AlexNet(2)"])
    with pytest.raises(ValueError, match="does not fit 2 columns"):
        PublishedTable("t", ("a", "b"), {"x": (1.0,)}, "s")
    with pytest.raises(ValueError, match="choose from unibrain_images"):
        find_table("unibrain")
