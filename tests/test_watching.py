"""Curves over iterations, and the live picture of a long optimisation."""

import io

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from nbutils import figures, widgets


def test_mean_curve_keeps_the_last_value_of_an_image_that_stopped():
    values = np.array([[0.0, 1.0], [0.2, 2.0], [0.4, np.nan], [0.6, np.nan]])
    ax = figures.iteration_curves([0, 5, 10, 15], {"own": values}, label="SSIM", chance=0.1)
    [mean] = [line for line in ax.lines if line.get_label() == "own"]
    np.testing.assert_allclose(mean.get_ydata(), [0.5, 1.1, 1.2, 1.3])
    np.testing.assert_array_equal(mean.get_xdata(), [0, 5, 10, 15])
    assert ax.get_ylabel() == "SSIM"
    assert "chance: other images" in ax.get_legend_handles_labels()[1]


def test_values_of_other_iterations_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 2\) for 4 iterations"):
        figures.iteration_curves(range(4), {"own": np.zeros((3, 2))}, label="SSIM")


def test_watched_images_are_shown_side_by_side_with_their_loss(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    watch = widgets.watch_images(interactive=True, words="stage 2 <own>")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    watch(10, images, np.array([0.1, 0.3, np.nan]))
    [box] = shown
    head, view = box.children
    assert isinstance(view, ipywidgets.Image)
    assert head.value == "stage 2 &lt;own&gt;: iteration 10, mean loss 0.2000"
    picture = np.asarray(Image.open(io.BytesIO(view.value)))
    factor = picture.shape[0] // 64
    np.testing.assert_array_equal(picture[::factor, ::factor], np.concatenate(images, axis=1))


def test_batch_runs_watch_nothing(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    watch = widgets.watch_images(interactive=False, words="stage 2")
    watch(0, np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1))
    assert shown == []
