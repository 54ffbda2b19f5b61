"""Widgets are views over functions: static in batch runs, and no error stays inside them."""

import numpy as np
import pytest
from ipywidgets.embed import dependency_state
from nbformat.v4 import new_notebook

from nbutils import figures, widgets
from nbutils.run import WIDGET_STATE, find_hidden_errors


@pytest.fixture
def sent(monkeypatch):
    """Return a list of what reaches the notebook."""
    shown = []

    def display(data, metadata=None, raw=False):
        shown.append((data, metadata))

    monkeypatch.setattr("nbutils.figures.display.display", display)
    monkeypatch.setattr("nbutils.widgets.display", display)
    return shown


@pytest.fixture
def draw():
    """Return a function that draws a picture as grey as its arguments say, and counts its calls."""

    def function(mix, row):
        function.calls.append((mix, row))
        if row == 2:
            raise KeyError("no such row")
        picture = np.full((1, 8, 8, 3), int(200 * mix) + row, np.uint8)
        return figures.image_grid({"decoded": picture})

    function.calls = []
    return function


def controls():
    return {"mix": widgets.mixing(0.6), "row": widgets.choose_image([73, 14, 99], default=1)}


def state_of(widget):
    """Return a notebook as it would be saved with this widget in it."""
    state = {"version_major": 2, "version_minor": 0, "state": dependency_state(widget)}
    return new_notebook(metadata={"widgets": {WIDGET_STATE: state}})


def test_batch_run_shows_the_default_state_as_a_plain_figure(draw, sent):
    widgets.sliders(draw, interactive=False, alt="A grey square.", **controls())
    expected = figures.bundle(draw(mix=0.6, row=1), "A grey square.")
    assert sent == [expected]


def test_interactive_run_shows_widgets_and_keeps_the_default_state_for_other_readers(draw, sent):
    widgets.sliders(draw, interactive=True, alt="A grey square.", **controls())
    [(data, metadata)] = sent
    still, about = figures.bundle(draw(mix=0.6, row=1), "A grey square.")
    assert "application/vnd.jupyter.widget-view+json" in data
    assert {form: data[form] for form in still} == still and metadata == about


def test_panel_starts_with_the_direct_call_and_follows_its_controls(draw):
    panel = widgets.Panel(draw, lambda mix, row: f"Row {row} at {mix}.", controls())
    assert panel.values() == {"mix": 0.6, "row": 1}

    def expect(mix, row):
        data, about = figures.bundle(draw(mix=mix, row=row), f"Row {row} at {mix}.")
        [output] = panel.view.outputs
        assert output == {"output_type": "display_data", "data": data, "metadata": about}

    expect(0.6, 1)
    panel.controls["mix"].value = 0.25
    expect(0.25, 1)
    panel.controls["row"].value = 0
    expect(0.25, 0)
    seen = len(draw.calls)
    panel.controls["row"].value = 1
    assert len(draw.calls) == seen, "a picture that was drawn before is remembered"
    assert find_hidden_errors(state_of(panel.box)) == []


@pytest.mark.parametrize("interactive", [False, True])
def test_error_in_the_default_state_stops_the_notebook(draw, sent, interactive):
    broken = controls() | {"row": widgets.choose_image([73, 14, 99], default=2)}
    with pytest.raises(KeyError, match="no such row"):
        widgets.sliders(draw, interactive=interactive, alt="A grey square.", **broken)
    assert sent == []


def test_error_in_a_callback_is_raised_shown_and_found_by_the_runner(draw):
    panel = widgets.Panel(draw, "A grey square.", controls())
    with pytest.raises(KeyError, match="no such row"):
        panel.controls["row"].value = 2
    [output] = panel.view.outputs
    assert output["output_type"] == "error" and output["ename"] == "KeyError"
    assert any("no such row" in line for line in output["traceback"])
    assert find_hidden_errors(state_of(panel.box)) == ["KeyError: 'no such row'"]
    panel.controls["row"].value = 0
    assert find_hidden_errors(state_of(panel.box)) == [], "the next good picture replaces it"


def test_empty_alt_text_is_refused(draw, sent):
    with pytest.raises(ValueError, match="say in a sentence"):
        widgets.sliders(draw, interactive=True, alt="", **controls())


@pytest.mark.parametrize(
    ("control", "bounds"),
    [
        (widgets.mixing(0.9), (0, 1)),
        (widgets.strength(0.75), (0.05, 1)),
        (widgets.guidance(4.0), (1, 15)),
        (widgets.dose(2.0), (0, 3)),
        (widgets.Slider(3, 1, 8, 1, "seeds"), (1, 8)),
    ],
)
def test_controls_become_sliders_with_their_default_and_bounds(control, bounds):
    widget = control.build()
    assert widget.value == control.default
    assert (widget.min, widget.max) == bounds
    assert not widget.continuous_update, "a picture takes seconds: only where the slider stops"
    assert isinstance(widget.value, type(control.default))


def test_doses_are_one_slider_per_region():
    built = widgets.doses(["faces", "words"], {"words": 1.5})
    assert widgets.defaults(built) == {"faces": 0.0, "words": 1.5}
    assert [control.label for control in built.values()] == ["faces", "words"]
    with pytest.raises(ValueError, match="default names food: not among the regions faces, words"):
        widgets.doses(["faces", "words"], {"food": 1.0})


def test_image_choice_names_nsd_ids_and_gives_rows():
    widget = widgets.choose_image([73, 14]).build()
    assert widget.options == (("0: nsd_id 73", 0), ("1: nsd_id 14", 1))


def test_default_out_of_bounds_is_refused():
    with pytest.raises(ValueError, match=r"mixing \(image\)=1.5: choose 0.0 to 1.0"):
        widgets.mixing(1.5)
    with pytest.raises(ValueError, match="test image=5: choose one of 0, 1"):
        widgets.choose_image([73, 14], default=5)
