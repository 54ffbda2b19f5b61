"""What must be said of a result stands on every figure and beside every file."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from nbutils import Study, caveats, figures
from nbutils.artifacts import ArtifactError, sidecar_path


@pytest.fixture(autouse=True)
def fresh():
    """Leave no sentence behind for other tests."""
    caveats.forget()
    yield
    caveats.forget()


def draw():
    figure = Figure(figsize=(3, 2))
    figure.add_subplot().plot([0, 1])
    return figure


def red_share(picture):
    """Part of the pixels of a rendered figure that are the mark's ground."""
    return (np.abs(picture.astype(int) - (0xA8, 0, 0)).max(axis=-1) < 8).mean()


def test_figures_of_random_weights_are_marked_and_say_so_in_words():
    figure = draw()
    before = figures.render(figure)
    assert red_share(before) == 0
    Study(device="cpu", weights="random")
    marked = figures.render(figure)
    assert red_share(marked) > 0.01
    data, metadata = figures.bundle(figure, "A line.")
    assert data["text/plain"] == f"{caveats.MEANINGLESS} A line."
    assert metadata["image/png"]["alt"] == data["text/plain"]
    np.testing.assert_array_equal(figures.render(figure), marked)
    caveats.forget()
    np.testing.assert_array_equal(figures.render(figure), before)


def test_files_of_random_weights_say_so_and_never_pass_for_results(tmp_path):
    where = {"device": "cpu", "results": tmp_path}
    path = Study(**where, weights="random").save("features", "clip_image.npy", np.zeros(3))
    record = json.loads(sidecar_path(path).read_text())
    assert record["caveats"] == [caveats.MEANINGLESS]
    assert record["parameters"]["weights"] == "random"
    for study in (Study(**where), Study(**where, weights="stored")):
        with pytest.raises(ArtifactError, match="made with weights='random'.*weights='stored'"):
            study.load("features", "clip_image.npy")
    assert len(Study(**where, weights="random").load("features", "clip_image.npy")) == 3


def test_a_rehearsal_reads_what_no_network_made_but_no_features_of_trained_ones(tmp_path):
    where = {"device": "cpu", "results": tmp_path}
    Study(**where).save("responses", "train.npy", np.zeros(3))  # a notebook without the parameter
    Study(**where, weights="stored").save("features", "vdvae.npy", np.zeros(3))
    rehearsal = Study(**where, weights="random")
    assert len(rehearsal.load("responses", "train.npy")) == 3
    with pytest.raises(ArtifactError, match="weights='stored'.*weights='random'"):
        rehearsal.load("features", "vdvae.npy")


def test_results_of_trained_weights_say_nothing(study):
    path = study.save("things", "x.npy", np.zeros(2))
    assert "caveats" not in json.loads(sidecar_path(path).read_text())
    assert caveats.said() == ()


def test_a_sentence_is_said_once():
    caveats.say("so")
    caveats.say("so")
    assert caveats.said() == ("so",)
