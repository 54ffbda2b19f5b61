"""Figures that lay systems and parts side by side show every number."""

import numpy as np
import pandas as pd
import pytest

from nbutils import figures
from nbutils.metrics.bootstrap import Score


@pytest.fixture
def table():
    rows = [
        ("A", "PixCorr", 0.30, 0.25, 0.36, 0.01, 0.50, 20, 0.02),
        ("A", "late distance", 0.60, 0.55, 0.65, 0.90, 0.20, 20, 0.88),
        ("B", "PixCorr", 0.34, 0.29, 0.39, 0.01, np.nan, 20, np.nan),
        ("B", "late distance", 0.75, 0.70, 0.80, 0.90, np.nan, 20, np.nan),
    ]
    columns = ["system", "measure", "value", "low", "high", "chance", "ceiling", "n", "shuffled"]
    return pd.DataFrame(rows, columns=columns)


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_table_prints_values_intervals_and_controls(table):
    figure = figures.comparison_table(table, lower_is_better=["late distance"], title="Both")
    found = texts(figure)
    for text in ("Both", "A", "B", "PixCorr", "0.30", "[0.25, 0.36]", "0.50", "0.88", "shuffled"):
        assert text in found
    assert "late distance ↓" in " ".join(found).replace("\n", " ")
    assert found.count("–") == 4, "B has neither ceiling nor control"


def test_best_value_is_marked_and_what_its_interval_holds(table):
    # B is best in PixCorr, and A's interval holds .34; A alone is best in distance.
    figure = figures.comparison_table(table, lower_is_better=["late distance"])
    marks = [line for line in figure.axes[0].lines if line.get_linewidth() == 1.6]
    columns = [round(np.mean(line.get_xdata()), 2) for line in marks]
    assert len(marks) == 3 and len(set(columns)) == 2
    assert figures.render(figure).ndim == 3


def test_a_system_alone_is_not_marked_as_the_best(table):
    figure = figures.comparison_table(table[table["system"] == "A"])
    assert not [line for line in figure.axes[0].lines if line.get_linewidth() == 1.6]
    assert not any("underlined" in text for text in texts(figure))


def test_ablation_has_one_panel_for_layout_and_one_for_meaning():
    low = {"full": Score("PixCorr", 0.5, 0.4, 0.6, 0.1, None, 9)}
    low["without Z"] = Score("PixCorr", 0.2, 0.1, 0.3, 0.1, None, 9)
    high = {row: Score("category hit", 0.7, 0.6, 0.8, 0.2, None, 9) for row in low}
    figure = figures.ablation_figure(low, high, title="Parts")
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "layout: PixCorr",
        "meaning: category hit",
    ]
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx([0.5, 0.2])
    with pytest.raises(ValueError, match="give the same for both"):
        figures.ablation_figure(low, {"full": high["full"]})
