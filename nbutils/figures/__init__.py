"""Every figure of the notebooks: functions that take arrays and return a matplotlib figure.

None of them shows or saves anything; `show` does, with the alt text it insists on.
"""

from nbutils.figures.accuracy import accuracy_by_region, change_with_company
from nbutils.figures.brains import brain_map, roi_map
from nbutils.figures.comparison import ablation_figure, comparison_table
from nbutils.figures.display import bundle, render, show
from nbutils.figures.encoding import map_rows, score_lines, surface_map, voxel_scatter
from nbutils.figures.experiment import (
    reliability_scatter,
    showings_by_session,
    trial_raster,
)
from nbutils.figures.flow import flow_diagram
from nbutils.figures.matrices import labelled_matrix
from nbutils.figures.means import mean_scatter
from nbutils.figures.pictures import compare_captions, denoising_strip, image_grid, roi_gallery
from nbutils.figures.responses import (
    alpha_curve,
    feature_heatmap,
    feature_panels,
    noise_ceiling_histogram,
    prediction_scatter,
    r2_histogram,
    response_matrix,
)
from nbutils.figures.scores import published_table, score_bars, score_table, similarity_matrix
from nbutils.figures.structure import iteration_curves
from nbutils.figures.style import COLORS, name_feature

__all__ = [
    "COLORS",
    "ablation_figure",
    "accuracy_by_region",
    "alpha_curve",
    "brain_map",
    "bundle",
    "change_with_company",
    "compare_captions",
    "comparison_table",
    "denoising_strip",
    "feature_heatmap",
    "feature_panels",
    "flow_diagram",
    "image_grid",
    "iteration_curves",
    "labelled_matrix",
    "map_rows",
    "mean_scatter",
    "name_feature",
    "noise_ceiling_histogram",
    "prediction_scatter",
    "published_table",
    "r2_histogram",
    "reliability_scatter",
    "render",
    "response_matrix",
    "roi_gallery",
    "roi_map",
    "score_bars",
    "score_lines",
    "score_table",
    "show",
    "showings_by_session",
    "similarity_matrix",
    "surface_map",
    "trial_raster",
    "voxel_scatter",
]
