"""Figures show the numbers they were given, with alt text, and refuse what would mislead."""

import base64
import io
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import nibabel
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from nbutils import figures
from nbutils.metrics.bootstrap import Score
from nbutils.metrics.bootstrap import table as score_table
from nbutils.metrics.published import find_table
from nbutils.miniature import scenes
from nbutils.nsd.layout import Layout


@pytest.fixture(scope="module")
def pictures():
    return scenes.draw_many(range(5))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def words(figure):
    """Return every text that a figure shows."""
    figure = figure if hasattr(figure, "savefig") else figure.get_figure(root=True)
    figure.canvas.draw()
    found = (text for text in figure.findobj(Text) if text.get_visible())
    return [text.get_text() for text in found if text.get_text()]


def shown(ax):
    return [np.asarray(image.get_array()) for image in ax.images]


# --- display


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_show_gives_alt_text_in_every_form_and_a_picture(pictures, monkeypatch):
    sent = []
    monkeypatch.setattr("nbutils.figures.display.display", lambda *a, **k: sent.append((a, k)))
    alt = 'Five "scenes" & <their> colours,\n one row.'
    said = 'Five "scenes" & <their> colours, one row.'
    figures.show(figures.image_grid({"seen": pictures}), alt=alt)
    [((data,), options)] = sent
    [(tag, attributes)] = Tags(data["text/html"]).found
    assert tag == "img" and attributes["alt"] == said
    assert attributes["src"] == "data:image/png;base64," + data["image/png"]
    assert options["metadata"]["image/png"]["alt"] == data["text/plain"] == said
    assert options["raw"]
    png = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert png.format == "PNG" and png.width > png.height
    assert plt.get_fignums() == [], "pyplot would show the figure a second time"


def test_show_refuses_missing_alt_text_and_other_things(pictures):
    with pytest.raises(ValueError, match="say in a sentence what the figure shows"):
        figures.show(figures.image_grid({"seen": pictures}), alt=" ")
    with pytest.raises(TypeError, match="ndarray is no figure"):
        figures.show(pictures, alt="Five scenes.")


def test_rendered_figure_is_the_same_picture_twice(pictures):
    first, second = (figures.render(figures.image_grid({"seen": pictures})) for _ in range(2))
    assert first.dtype == np.uint8 and first.shape[-1] == 3
    np.testing.assert_array_equal(first, second)


# --- pictures


def test_grid_holds_the_images_row_by_row_with_labels_and_captions(pictures):
    rows = {"presented": pictures, "decoded": pictures[::-1]}
    ax = figures.image_grid(rows, ["one", "two", "three", "four", "five"], title="A title")
    assert len(ax.images) == 10
    np.testing.assert_array_equal(shown(ax), np.concatenate(list(rows.values())))
    assert {"presented", "decoded", "one", "five", "A title"} <= set(words(ax))
    left, right, bottom, top = np.array([image.get_extent() for image in ax.images]).T
    assert (bottom[:5] <= top[5:]).all(), "the first row is above the second (y runs down)"
    np.testing.assert_allclose(left[:5], left[5:])
    assert (right[:4] <= left[1:5]).all()


def test_rendered_grid_enlarges_every_pixel_alike(pictures):
    rendered = figures.render(figures.image_grid({"": pictures[:1]}))
    inside = rendered[12:-12, 12:-12]
    assert inside.shape == (192, 192, 3)
    np.testing.assert_array_equal(inside, pictures[0].repeat(3, axis=0).repeat(3, axis=1))


def test_grid_continues_below_after_the_given_number_of_columns(pictures):
    ax = figures.image_grid({"a": pictures, "b": pictures}, columns=3)
    assert words(ax) == ["a", "b", "a", "b"]
    tops = [round(image.get_extent()[3], 6) for image in ax.images]
    assert [tops.count(top) for top in sorted(set(tops))] == [3, 3, 2, 2]
    expected = np.concatenate([pictures[:3], pictures[:3], pictures[3:], pictures[3:]])
    np.testing.assert_array_equal(shown(ax), expected)


def test_large_images_are_kept_whole(pictures):
    large = pictures.repeat(8, axis=1).repeat(8, axis=2)
    ax = figures.image_grid({"presented": large, "decoded": pictures})
    np.testing.assert_array_equal(shown(ax)[0], large[0])
    first, last = ax.images[0].get_extent(), ax.images[5].get_extent()
    assert first[1] - first[0] == pytest.approx(last[1] - last[0])


def test_images_of_one_row_may_differ_in_size(pictures):
    presented = pictures[0].repeat(2, axis=0).repeat(2, axis=1)
    ax = figures.image_grid({"": [presented, *pictures[1:3]]}, ["presented", "one", "two"])
    for drawn, given in zip(ax.images, [presented, *pictures[1:3]], strict=True):
        np.testing.assert_array_equal(drawn.get_array(), given)
    sides = [image.get_extent()[1] - image.get_extent()[0] for image in ax.images]
    assert sides == pytest.approx([sides[0]] * 3)


@pytest.mark.parametrize(
    ("rows", "captions", "error", "sentence"),
    [
        (lambda p: {"a": p / 255}, None, TypeError, "'a' is float64: give uint8 images"),
        (lambda p: {"a": p, "b": p[:3]}, None, ValueError, "3 images of 'b' for 5 images"),
        (lambda p: {"a": p}, ["one"], ValueError, "1 captions for 5 images"),
        (lambda p: {"a": p[0]}, None, ValueError, r"shape \(64, 64, 3\): give images as \(n,"),
        (lambda p: {}, None, ValueError, "no row of images"),
    ],
)
def test_grid_refuses_what_does_not_belong(pictures, rows, captions, error, sentence):
    with pytest.raises(error, match=sentence):
        figures.image_grid(rows(pictures), captions)


def test_roi_gallery_puts_each_caption_under_its_image(pictures):
    captions = {"faces": ["a man", "a child"], "places": ["a house", "a tower"]}
    ax = figures.roi_gallery({"faces": pictures[:2], "places": pictures[2:4]}, captions)
    np.testing.assert_array_equal(shown(ax), pictures[:4])
    place = {text.get_text(): text.get_position() for text in ax.texts}
    order = ["a man", "a child", "a house", "a tower"]
    for image, caption in zip(ax.images, order, strict=True):
        left, right, bottom, _ = image.get_extent()
        x, y = place[caption]
        assert x == pytest.approx((left + right) / 2) and bottom < y < bottom + 0.2
    with pytest.raises(ValueError, match="captions of 'food', but images of faces"):
        figures.roi_gallery({"faces": pictures[:2]}, {"food": ["a", "b"]})


def test_denoising_strip_says_timestep_and_noise_and_draws_the_noise_to_scale(pictures):
    ax = figures.denoising_strip(pictures[:3], [981, 501, 1], [1.0, 0.5, 0.02])
    np.testing.assert_array_equal(shown(ax), pictures[:3])
    assert ["t = 981\nnoise 100 %", "t = 501\nnoise 50 %", "t = 1\nnoise 2 %"] == words(ax)
    widths = np.array([patch.get_width() for patch in ax.patches]).reshape(3, 2)
    np.testing.assert_allclose(widths[:, 1] / widths[:, 0], [1.0, 0.5, 0.02])
    with pytest.raises(ValueError, match="2 timesteps for 3 images"):
        figures.denoising_strip(pictures[:3], [981, 1])


def test_captions_stand_beside_their_image_unabridged(pictures):
    long = "a very long sentence that goes on and on about a green cactus on a wooden table " * 2
    rows = {"a person": ["one", "two", "three"], "decoded": ["uno", long.strip(), ""]}
    ax = figures.compare_captions(pictures[:3], rows)
    np.testing.assert_array_equal(shown(ax), pictures[:3])
    said = [" ".join(text.split("\n")) for text in words(ax)]
    for sentence in ("one", "two", "three", "uno", long.strip(), "(nothing)"):
        assert said.count(sentence) == 1
    assert said.count("a person") == said.count("decoded") == 3
    with pytest.raises(ValueError, match="1 sentences of 'x' for 3 images"):
        figures.compare_captions(pictures[:3], {"x": ["one"]})


# --- the flow


@pytest.fixture
def features(rng):
    return {
        "autokl": rng.normal(size=(4, 8, 8)),
        "clip_image": rng.normal(size=(17, 64)),
        "clip_text": rng.normal(size=(24, 64)),
        "optimus": rng.normal(size=64),
    }


def test_flow_shows_the_way_from_the_response_to_picture_and_sentence(pictures, features, rng):
    response = rng.normal(size=123)
    drawn = figures.flow_diagram(
        response,
        features,
        pictures[1:4],
        pictures[4],
        "a red car",
        presented=pictures[0],
        timesteps=[981, 501, 241],
    )
    [ax] = drawn.axes
    arrays = shown(ax)
    colored = [array for array in arrays if array.ndim == 3]
    np.testing.assert_array_equal(colored, pictures)
    voxels = arrays[1][np.isfinite(arrays[1])]
    np.testing.assert_array_equal(voxels, response)
    np.testing.assert_allclose(arrays[3], features["clip_image"], rtol=1e-6)
    said = words(drawn)
    for text in ("$Z_I$", "$C_I$", "$C_T$", "$Z_T$", "“a red car”", "123 voxels", "t = 981"):
        assert text in said


def test_flow_without_a_sentence_leaves_its_lane_out(pictures, features):
    del features["optimus"]
    drawn = figures.flow_diagram(np.ones(9), features, pictures[:2], pictures[2])
    assert not any("decoded sentence" in text or "Optimus" in text for text in words(drawn))
    with pytest.raises(ValueError, match="features .'eeg'.: the flow knows autokl"):
        figures.flow_diagram(np.ones(9), {"eeg": [1.0]}, pictures[:2], pictures[2])
    with pytest.raises(ValueError, match="give one response"):
        figures.flow_diagram(np.ones((2, 9)), features, pictures[:2], pictures[2])


# --- responses and features


def test_response_matrix_is_drawn_as_given_and_centred_on_zero(rng):
    responses = rng.normal(size=(6, 40)).astype(np.float32)
    ax = figures.response_matrix(responses, title="Test images")
    np.testing.assert_array_equal(shown(ax)[0], responses)
    low, high = ax.images[0].get_clim()
    assert low == -high and high == pytest.approx(np.percentile(np.abs(responses), 99), rel=1e-5)
    assert ax.get_xlabel() == "voxels (n = 40)" and ax.get_ylabel() == "images (n = 6)"
    wide = figures.response_matrix(np.zeros((2, 5000)))
    assert wide.get_xlabel() == "voxels (n = 5,000, one in 3 drawn)"
    with pytest.raises(ValueError, match="n_images, n_voxels"):
        figures.response_matrix(np.zeros(3))


def test_noise_ceilings_are_summarised_by_region_without_the_voxels_that_have_none(rng):
    ceilings = rng.uniform(0, 60, 300)
    ceilings[:10] = np.nan
    inside = np.arange(300) < 100
    ax = figures.noise_ceiling_histogram(ceilings, {"V1": inside, "food": np.zeros(300, bool)})
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert labels == ["all voxels", "V1", "food"]
    medians = [line.get_xdata()[0] for line in ax.lines]
    np.testing.assert_allclose(medians, [np.nanmedian(ceilings), np.nanmedian(ceilings[inside])])
    assert any(text.endswith("n = 90") for text in words(ax)) and "no voxel" in words(ax)
    with pytest.raises(ValueError, match=r"rois\['V1'\] is int64 \(100,\): give one bool"):
        figures.noise_ceiling_histogram(ceilings, {"V1": np.arange(100)})


def test_r2_histogram_counts_every_target_and_marks_chance(rng):
    scores = {"autokl": rng.normal(0.2, 0.1, 400), "clip_text": np.array([0.5, np.nan, 0.7])}
    ax = figures.r2_histogram(scores)
    said = words(ax)
    assert {"$Z_I$ autokl", "$C_T$ clip_text", "median 0.60, n = 2"} <= set(said)
    assert any(line.get_linestyle() == "--" and set(line.get_xdata()) == {0} for line in ax.lines)


def test_feature_heatmap_lays_out_tokens_channels_and_vectors(rng):
    tokens = rng.normal(size=(5, 7)).astype(np.float32)
    np.testing.assert_array_equal(shown(figures.feature_heatmap(tokens))[0], tokens)
    latent = rng.normal(size=(3, 6, 6)).astype(np.float32)
    drawn = np.ma.filled(figures.feature_heatmap(latent).images[0].get_array(), np.nan)
    assert drawn.shape == (6, 3 * 6 + 2)
    for channel in range(3):
        np.testing.assert_array_equal(drawn[:, 7 * channel : 7 * channel + 6], latent[channel])
    vector = rng.normal(size=50).astype(np.float32)
    drawn = figures.feature_heatmap(vector).images[0].get_array()
    np.testing.assert_array_equal(drawn.compressed(), vector)
    with pytest.raises(ValueError, match="give those of one image"):
        figures.feature_heatmap(np.zeros((2, 3, 4, 5)))


def test_predicted_features_are_drawn_in_the_colours_of_the_true_ones(features):
    predicted = {name: 0.3 * values for name, values in features.items()}
    drawn = figures.feature_panels(features, predicted)
    assert len(drawn.axes) == 8
    limits = [ax.images[0].get_clim() for ax in drawn.axes]
    assert limits[:4] == limits[4:]
    assert {"true", "predicted", "$C_I$ clip_image", "17 tokens × 64"} <= set(words(drawn))
    assert len(figures.feature_panels(features).axes) == 4


def test_alpha_curve_is_sorted_and_marks_both_penalties():
    ax = figures.alpha_curve([100, 1, 10], [0.5, 0.9, 0.3], chosen=10, published=60_000)
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1, 0.9], [10, 0.3], [100, 0.5]])
    assert ax.get_xscale() == "log"
    assert {"published: 60,000", "chosen: 10"} <= set(words(ax))


def test_prediction_scatter_states_slope_and_correlation(rng):
    true = rng.normal(size=500)
    predicted = 0.4 * true + 0.2 * rng.normal(size=500) + 0.1
    fit = scipy.stats.linregress(true, predicted)
    ax = figures.prediction_scatter(true, predicted, name="$C_I$")
    assert {f"fit, slope {fit.slope:.2f}", f"r = {fit.rvalue:.2f}"} <= set(words(ax))
    x, y = ax.lines[2].get_data()
    np.testing.assert_allclose(y, fit.slope * x + fit.intercept, rtol=1e-6)
    with pytest.raises(ValueError, match="500 true and 3 predicted"):
        figures.prediction_scatter(true, predicted[:3])


# --- scores


@pytest.fixture
def scores(rng):
    values = {"PixCorr": rng.uniform(0.3, 0.6, 40), "late distance": rng.uniform(0.2, 0.5, 40)}
    return score_table(
        values, chance={"PixCorr": 0.1}, ceiling={"PixCorr": 0.9, "late distance": 0.05}
    )


def test_score_table_draws_value_interval_chance_and_ceiling(scores):
    control = scores.assign(value=scores["value"] - 0.2)
    drawn = figures.score_table({"3 repeats": scores, "shuffled": control}, title="Scores")
    [ax] = drawn.axes
    first, second = ax.containers[-2:]
    np.testing.assert_allclose(first[0].get_xdata(), scores["value"])
    np.testing.assert_allclose(second[0].get_xdata(), control["value"])
    ends = np.array([segment[:, 0] for segment in first[2][0].get_segments()])
    np.testing.assert_allclose(ends, scores[["low", "high"]])
    marks = sorted(line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1)
    np.testing.assert_allclose(marks, [0.05, 0.1, 0.9])
    said = words(drawn)
    assert {"3 repeats", "shuffled", "chance", "ceiling", "late distance ↓"} <= set(said)
    assert f"{scores['value'].iloc[0]:.2f}" in said


def test_score_table_refuses_tables_of_other_measures(scores):
    with pytest.raises(ValueError, match="'b' has the measures PixCorr: give the same"):
        figures.score_table({"a": scores, "b": scores.iloc[:1]})


def test_score_table_without_known_chance_or_ceiling_has_neither_mark(rng):
    drawn = figures.score_table(score_table({"METEOR": rng.uniform(size=9)}))
    assert not {"chance", "ceiling"} & set(words(drawn))


def test_score_bars_draw_values_intervals_and_grey_controls():
    scores = {
        "3 repeats": Score("category hit", 0.85, 0.80, 0.91, 0.16, 0.97, 100),
        "shuffled": Score("category hit", 0.17, 0.10, 0.25, 0.16, 0.97, 100),
    }
    ax = figures.score_bars(scores, controls=["shuffled"])
    assert [patch.get_width() for patch in ax.patches] == [0.85, 0.17]
    assert to_hex(ax.patches[0].get_facecolor()) != to_hex(ax.patches[1].get_facecolor())
    lines = [line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1]
    assert lines == [0.16, 0.97]
    assert ax.get_xlabel() == "category hit" and "[0.80, 0.91]" in words(ax)
    with pytest.raises(ValueError, match="controls name noise"):
        figures.score_bars(scores, controls=["noise"])


def test_published_table_prints_every_number_with_its_source_on_its_own_ground():
    published = find_table("unibrain_images")
    drawn = figures.published_table(published, highlight="UniBrain")
    said = words(drawn)
    for text in (*published.columns, *published.rows, "0.249", "92.9", "0.407"):
        assert text in said
    missing = sum(value is None for row in published.rows.values() for value in row)
    assert said.count("–") == missing
    assert f"Source: {published.source}" in said and said[0].startswith("PUBLISHED")
    assert to_hex(drawn.get_facecolor()) != "#ffffff"
    with pytest.raises(ValueError, match="highlight='ours': the rows are Mind-Reader"):
        figures.published_table(published, highlight="ours")


def test_similarity_matrix_frames_the_right_answers_beside_small_pictures(pictures, rng):
    matrix = rng.normal(size=(5, 5))
    ax = figures.similarity_matrix(matrix, pictures, pictures)
    np.testing.assert_array_equal(shown(ax)[0], matrix)
    corners = [patch.get_xy() for patch in ax.patches]
    assert corners == [(k - 0.5, k - 0.5) for k in range(5)]
    icons = [box.offsetbox.get_data() for box in ax.artists]
    np.testing.assert_array_equal(icons, np.concatenate([pictures, pictures]))
    with pytest.raises(ValueError, match=r"\(n, n\), presented by decoded"):
        figures.similarity_matrix(matrix[:3])
    with pytest.raises(ValueError, match="2 images for a 5 x 5 matrix"):
        figures.similarity_matrix(matrix, pictures[:2])


# --- the experiment


@pytest.fixture
def table(rng):
    """Return 90 trials of 3 sessions with 2 runs each: every image comes three times."""
    nsd_id = rng.permutation(np.repeat(np.arange(30), 3))
    made = pd.DataFrame({"session": np.repeat([4, 5, 6], 30), "run": np.tile([1, 2], 45)})
    made = made.sort_values(["session", "run"], ignore_index=True).assign(nsd_id=nsd_id)
    return made.assign(repeat=made.groupby("nsd_id").cumcount(), shared=made["nsd_id"] < 6)


def test_sessions_are_stacked_from_first_to_later_showings_in_percent(table):
    ax = figures.showings_by_session(table)
    for kind, bars in enumerate(ax.containers):
        for session, bar in zip((4, 5, 6), bars, strict=True):
            here = table[table["session"] == session]
            share = 100 * (here["repeat"] == kind).mean()
            assert bar.get_height() == pytest.approx(share)
            assert bar.get_x() + bar.get_width() / 2 == pytest.approx(session)
            assert bar.get_y() == pytest.approx(100 * (here["repeat"] < kind).mean())
    shared = 100 * table.groupby("session")["shared"].mean()
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.c_[shared.index, shared])
    assert {"first", "second", "third", "shared images"} <= set(words(ax))


def test_raster_has_one_cell_per_trial_of_the_first_session(table):
    ax = figures.trial_raster(table)
    first = table[table["session"] == 4].reset_index(drop=True)
    cells = ax.collections[0].get_array()
    assert cells.shape == (2, 15)
    np.testing.assert_array_equal(cells.ravel(), first["repeat"])
    column, row = ax.lines[0].get_xdata(), ax.lines[0].get_ydata()
    marked = np.zeros((2, 15), bool)
    marked[row.astype(int) - 1, column.astype(int) - 1] = True
    np.testing.assert_array_equal(marked.ravel(), first["shared"])
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first run is on top"
    assert figures.trial_raster(table, 6).get_title(loc="left") == "session 6"


def test_runs_of_unequal_length_leave_cells_empty(table):
    ax = figures.trial_raster(table.drop(index=29))
    cells = np.ma.masked_invalid(ax.collections[0].get_array())
    assert cells.shape == (2, 15) and cells.count() == 29 and cells.mask[1, 14]


def test_experiment_figures_refuse_another_table(table):
    with pytest.raises(ValueError, match="session=9: the table has no trial of it"):
        figures.trial_raster(table, 9)
    with pytest.raises(ValueError, match="has no repeat: give what"):
        figures.showings_by_session(table.drop(columns="repeat"))
    with pytest.raises(ValueError, match="has no rows"):
        figures.showings_by_session(table.iloc[:0])


def test_reliability_shows_every_known_voxel_and_medians_of_equal_bins(rng):
    expected = rng.uniform(0, 0.6, 240)
    measured = expected + rng.normal(0, 0.02, 240)
    measured[:3] = np.nan
    ax = figures.reliability_scatter(expected, measured)
    dots, identity, medians = ax.lines[:3]
    np.testing.assert_array_equal(dots.get_xydata(), np.c_[expected, measured][3:])
    np.testing.assert_array_equal(identity.get_xdata(), identity.get_ydata())
    x, y = medians.get_data()
    assert len(x) == 12 and (np.diff(x) > 0).all()
    np.testing.assert_allclose(y, x, atol=0.03)
    lowest = np.sort(expected[3:])[:20]
    assert x[0] == pytest.approx(np.median(lowest))
    assert any(text.startswith("237 voxels, r = ") for text in words(ax))
    with pytest.raises(ValueError, match="one value per voxel"):
        figures.reliability_scatter(expected, measured[:9])
    with pytest.raises(ValueError, match="nothing to compare"):
        figures.reliability_scatter([0.1, np.nan], [np.nan, 0.1])


# --- what limits a prediction


def test_accuracy_stands_beside_the_median_ceiling_of_each_region(rng):
    ceilings = rng.uniform(0, 80, 50)
    ceilings[0] = np.nan
    regions = {"V1": np.arange(50) < 20, "faces": np.arange(50) >= 30}
    scores = {"clip_image": [0.4, 0.6], "autokl": [0.5, 0.2]}
    drawn = figures.accuracy_by_region(scores, regions, ceilings)
    left, right = drawn.axes
    dots = [line for line in left.lines if line.get_linestyle() == "None"]
    assert [list(line.get_xdata()) for line in dots] == list(scores.values())
    rows = np.array([line.get_ydata() for line in dots])
    np.testing.assert_array_equal(rows.round(), [[0, 1], [0, 1]])
    medians = [np.nanmedian(ceilings[inside]) for inside in regions.values()]
    np.testing.assert_allclose([bar.get_width() for bar in right.patches], medians)
    assert {"V1 (20)", "faces (20)", "$C_I$ clip_image", "$Z_I$ autokl"} <= set(words(drawn))
    with pytest.raises(ValueError, match=r"scores\['autokl'\] has shape \(1,\)"):
        figures.accuracy_by_region({"autokl": [0.1]}, regions, ceilings)
    with pytest.raises(ValueError, match=r"regions\['V1'\]: give one bool for each of 50 voxels"):
        figures.accuracy_by_region(scores, {"V1": np.arange(50)}, ceilings)


def test_region_without_a_known_ceiling_has_no_bar():
    regions = {"V1": np.array([True, False]), "food": np.array([False, False])}
    scores = {"optimus": [0.3, np.nan]}
    drawn = figures.accuracy_by_region(scores, regions, [40.0, np.nan])
    assert {" 40", " –", "food (0)"} <= set(words(drawn))


def test_company_curves_go_through_the_medians_of_their_draws(rng):
    counts = [10, 50, 200]
    changes = {"test_stats": rng.uniform(1, 30, (3, 7)), "train_cv": np.zeros((3, 7))}
    ax = figures.change_with_company(counts, changes)
    for line, values in zip(ax.lines, changes.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), counts)
        np.testing.assert_allclose(line.get_ydata(), np.median(values, axis=1))
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == changes["test_stats"].min() and band.max() == changes["test_stats"].max()
    assert ax.get_ylim()[0] == 0 and {"10", "50", "200", "train_cv"} <= set(words(ax))
    with pytest.raises(ValueError, match=r"changes\['a'\] has shape \(2, 7\)"):
        figures.change_with_company(counts, {"a": np.zeros((2, 7))})


# --- brains


@pytest.fixture
def brain(tmp_path):
    """Return a layout with a brain of 6 x 7 x 5 voxels, all of them inside."""
    layout, shape = Layout(tmp_path), (6, 7, 5)
    t1 = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    affine = np.diag([1.8, 1.8, 1.8, 1.0])
    for name, volume in {"brainmask": np.ones(shape, np.int16), "T1_to_func1pt8mm": t1}.items():
        path = layout.volume(1, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(volume, affine), path)
    return layout, shape


def overlays(figure):
    """Return the numbers drawn over the background, slice by slice."""
    stacks = [ax.images for ax in figure.axes if len(ax.images) == 2]
    return [np.ma.masked_invalid(images[1].get_array()) for images in stacks]


def test_brain_map_draws_each_value_at_its_voxel(brain):
    layout, shape = brain
    voxels = np.ravel_multi_index(([1, 2, 3, 4], [2, 2, 5, 1], [0, 2, 2, 4]), shape)
    drawn = figures.brain_map(layout, 1, [1.0, 2.0, 3.0, 4.0], voxels, label="z", cuts=3)
    slices = overlays(drawn)
    assert [sorted(np.unique(one.compressed())) for one in slices] == [[1.0], [2.0, 3.0], [4.0]]
    middle = slices[1]
    where = {value: np.argwhere(np.ma.filled(middle, 0) == value).mean(axis=0) for value in (2, 3)}
    (row2, column2), (row3, column3) = where[2], where[3]
    assert column3 > column2, "voxel 3 lies further right, and left is left"
    assert row3 < row2, "and further to the front, which is up"
    assert {ax.images[1].origin for ax in drawn.axes if len(ax.images) == 2} == {"upper"}
    assert {"z", "L", "R"} <= set(words(drawn))


def test_brain_map_diverges_from_zero_only_if_something_is_negative(brain):
    layout, _ = brain
    voxels = np.arange(40)
    positive = figures.brain_map(layout, 1, np.linspace(0, 8, 40), voxels, limit=10)
    signed = figures.brain_map(layout, 1, np.linspace(-4, 8, 40), voxels, limit=10)
    assert positive.axes[-1].get_ylim() == (0, 10) and signed.axes[-1].get_ylim() == (-10, 10)
    drawn = sum(one.count() for one in overlays(figures.brain_map(layout, 1, [0.0, 5.0], [0, 5])))
    assert drawn == 2, "a voxel whose value is 0 is drawn, too"
    with pytest.raises(ValueError, match="one number per voxel"):
        figures.brain_map(layout, 1, [1.0], voxels)


def test_roi_map_numbers_regions_and_counts_their_voxels(brain):
    layout, shape = brain
    voxels = np.arange(np.prod(shape))
    rois = {"V1": voxels < 60, "faces": voxels >= 150}
    drawn = figures.roi_map(layout, 1, rois, voxels, cuts=5)
    counts = [sum((one == number).sum() for one in overlays(drawn)) for number in (1, 2)]
    assert counts == [60, 60]
    [legend] = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == ["V1 (60)", "faces (60)"]
    with pytest.raises(ValueError, match="one figure shows 1 to 9"):
        figures.roi_map(layout, 1, {}, voxels)
    with pytest.raises(ValueError, match=r"rois\['V1'\] is int64"):
        figures.roi_map(layout, 1, {"V1": voxels}, voxels)
