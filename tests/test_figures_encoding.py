"""Figures of encoding models draw the numbers they are given."""

import nibabel
import numpy as np
import pytest

from nbutils import figures
from nbutils.metrics.bootstrap import Score
from nbutils.nsd.layout import Layout
from nbutils.nsd.surfaces import Surface

SHAPE = (6, 5, 4)


@pytest.fixture
def brain(tmp_path):
    layout = Layout(tmp_path)
    folder = layout.ppdata(1)
    folder.mkdir(parents=True)
    for name in ("brainmask", "T1_to_func1pt8mm"):
        values = np.ones(SHAPE, np.int16) + (np.indices(SHAPE)[0] if "T1" in name else 0)
        nibabel.save(
            nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), folder / f"{name}.nii.gz"
        )
    return layout


def test_map_rows_share_one_scale_and_have_one_row_each(brain):
    voxels = np.arange(60)
    maps = {"z": np.linspace(0, 0.5, 60), "c": np.linspace(0, 0.8, 60)}
    found = figures.map_rows(brain, 1, maps, voxels, label="r", cuts=3)
    titles = [text.get_text() for text in found.texts]
    assert titles == ["z", "c"]
    bar = found.axes[-1]
    assert bar.get_ylabel() == "r"
    np.testing.assert_allclose(bar.get_ylim(), [0, np.percentile([*maps.values()], 99)], rtol=1e-5)
    signed = figures.map_rows(brain, 1, {"d": np.linspace(-1, 1, 60)}, voxels, limit=1, cuts=2)
    np.testing.assert_allclose(signed.axes[-1].get_ylim(), [-1, 1])
    with pytest.raises(ValueError, match="maps is empty"):
        figures.map_rows(brain, 1, {}, voxels)


def test_scatter_marks_the_mean_of_each_region(brain):
    x, y = np.array([0.1, 0.3, 0.9, np.nan]), np.array([0.2, 0.4, 0.1, 0.5])
    groups = {"early": [True, True, False, False], "higher": [False, False, True, True]}
    ax = figures.voxel_scatter(x, y, groups, labels=("z", "c"))
    means = [line for line in ax.lines if line.get_markersize() == 10]
    np.testing.assert_allclose(np.array([line.get_xydata()[0] for line in means]),
                               [[0.2, 0.3], [0.9, 0.1]])  # fmt: skip
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["early (2)", "higher (1)"]


def test_score_lines_draw_values_with_their_intervals():
    scores = [Score("u", v, v - 0.1, v + 0.05, 0.0, None, 9) for v in (0.1, 0.2, 0.4)]
    panels = {"early": {"z": scores}, "higher": {"z": scores[::-1]}}
    found = figures.score_lines(panels, ["low", "middle", "high"], label="R²")
    assert [ax.get_title(loc="left") for ax in found.axes] == ["early", "higher"]
    for ax, order in zip(found.axes, (1, -1), strict=True):
        data, _, (bars,) = ax.containers[0]
        np.testing.assert_allclose(data.get_ydata(), [0.1, 0.2, 0.4][::order])
        low, high = bars.get_segments()[0][:, 1]
        np.testing.assert_allclose([low, high], [0.0, 0.15] if order == 1 else [0.3, 0.45],
                                   atol=1e-9)  # fmt: skip
    with pytest.raises(ValueError, match="3 scores for 2 levels"):
        figures.score_lines(panels, ["low", "high"])


def test_surface_map_draws_one_view_after_another_with_one_scale():
    rng = np.random.default_rng(0)
    corners = rng.standard_normal((8, 3)) * 40
    faces = np.array([[0, 1, 2], [2, 3, 4], [4, 5, 6], [5, 6, 7]])
    sheet = Surface("lh", corners, faces, rng.standard_normal(8), np.zeros((3, 8, 3)))
    values = np.array([0.1, 0.2, np.nan, 0.4, 0.5, 0.6, -0.2, 0.3])
    found = figures.surface_map({"lh": (sheet, values)}, label="r", limit=0.5,
                                views=("lateral", "ventral"))  # fmt: skip
    titles = [ax.get_title(loc="center") for ax in found.axes[:2]]
    assert titles == ["lh, lateral", "lh, ventral"]
    np.testing.assert_allclose(found.axes[-1].get_ylim(), [-0.5, 0.5])
    assert figures.render(found).std() > 0
