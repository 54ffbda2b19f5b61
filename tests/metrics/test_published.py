"""Published tables: anchors that the sources quote more than once, and their form."""

import numpy as np
import pytest

from nbutils.metrics.published import TABLES, PublishedTable, beside, find_table, reasons
from nbutils.metrics.variants import find_variant


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


def test_values_beside_each_other_are_those_of_the_tables_with_reasons_for_each():
    table = beside().to_frame()
    assert table.loc["UniBrain"].tolist() == list(find_table("unibrain_images").rows["UniBrain"])
    assert table.loc["MindDiffuser", "SSIM"] == 0.354
    assert np.isnan(table.loc["MindDiffuser", "CLIP"]), "its CLIP is a cosine"
    why = reasons()
    assert list(why.index) == list(table.index)
    assert not why.isna().any(axis=None)


def test_reasons_agree_with_the_variants():
    why = reasons()
    for system, name in (("Brain-Diffuser", "brain_diffuser"), ("MindEye2", "mindeye2")):
        variant = find_variant(name)
        assert variant.test_images.startswith(why.loc[system, "test images"])
        [first] = [m for m in variant.measures if m.name == "AlexNet(2)"]
        assert why.loc[system, "AlexNet after"] == f"ReLU, {first.size} px"
        by_columns = "columns" in why.loc[system, "SSIM"]
        assert by_columns == (variant.ssim == "legacy_columns")
