"""A matrix with names shows its own numbers, legibly."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from nbutils.figures.matrices import labelled_matrix

VALUES = [[0.0, 0.5, np.nan], [1.0, 0.25, 0.75]]


def test_every_finite_cell_holds_its_own_number():
    ax = labelled_matrix(VALUES, ["up", "down"], ["a", "b", "c"], form="{:.2f}")
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written == {
        (0, 0): "0.00", (1, 0): "0.50", (0, 1): "1.00", (1, 1): "0.25", (2, 1): "0.75",
    }  # fmt: skip
    assert [label.get_text() for label in ax.get_yticklabels()] == ["up", "down"]


@pytest.mark.parametrize("values", [VALUES, [[-1.0, 0.0, 1.0], [0.5, -0.5, 0.1]]])
def test_numbers_stand_out_from_their_cells(values):
    ax = labelled_matrix(values, ["up", "down"], ["a", "b", "c"])
    image = ax.images[0]
    for text in ax.texts:
        column, row = (int(x) for x in text.get_position())
        cell = image.cmap(image.norm(values[row][column]))[:3]
        brightness = [np.dot([0.2126, 0.7152, 0.0722], c) for c in (cell, to_rgb(text.get_color()))]
        assert abs(brightness[0] - brightness[1]) > 0.3


def test_colours_diverge_from_zero_only_if_values_are_negative():
    assert labelled_matrix([[0.2, 0.8]], ["r"], ["a", "b"]).images[0].get_clim() == (0, 0.8)
    assert labelled_matrix([[-0.2, 0.8]], ["r"], ["a", "b"]).images[0].get_clim() == (-0.8, 0.8)


def test_names_must_fit():
    with pytest.raises(ValueError, match="2 row and 2 column names"):
        labelled_matrix(VALUES, ["up", "down"], ["a", "b"])
