"""Sliders over pure functions: interactive in JupyterLab, one static figure in batch runs.

A widget computes nothing itself. It calls a function that takes the controls' values and returns a
figure, and which runs just as well without any widget.
"""

from __future__ import annotations

import functools
import html
import io
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets
import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from nbutils import figures

Draw = Callable[..., Figure | Axes]
Alt = str | Callable[..., str]
Watch = Callable[[int, NDArray[np.uint8], NDArray], None]
WATCHED = 96
"""Height of a watched image, pixels, about."""
REMEMBERED = 64
"""Pictures kept, so that moving a slider back costs nothing."""


@dataclass(frozen=True)
class Slider:
    """A control for a number.

    Attributes
    ----------
    default, low, high, step : the number's start, range and grid
    label : what the reader sees
    """

    default: float
    low: float
    high: float
    step: float
    label: str

    def __post_init__(self) -> None:
        """Refuse a default that the slider would silently move."""
        if not (self.low <= self.default <= self.high and self.step > 0):
            raise ValueError(
                f"{self.label}={self.default}: choose {self.low} to {self.high}, in steps above 0"
            )

    def build(self) -> ipywidgets.Widget:
        """Make the widget. It reports when released, not on the way: a picture takes seconds."""
        whole = all(float(x).is_integer() for x in (self.default, self.low, self.step))
        kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
        digits = max(0, math.ceil(-math.log10(self.step) - 1e-9))
        options = {} if whole else {"readout_format": f".{digits}f"}
        number = int if whole else float
        return kind(
            value=number(self.default),
            min=number(self.low),
            max=number(self.high),
            step=number(self.step),
            description=self.label,
            continuous_update=False,
            style={"description_width": "9em"},
            layout={"width": "28em"},
            **options,
        )


@dataclass(frozen=True)
class Choice:
    """A control for one of several values.

    Attributes
    ----------
    options : label -> value
    default : one of the values
    label : what the reader sees
    """

    options: Mapping[str, Any]
    default: Any
    label: str

    def __post_init__(self) -> None:
        """Refuse a default that is not there."""
        if self.default not in self.options.values():
            raise ValueError(
                f"{self.label}={self.default!r}: choose one of "
                f"{', '.join(map(str, self.options.values()))}"
            )

    def build(self) -> ipywidgets.Widget:
        """Make the widget."""
        return ipywidgets.Dropdown(
            options=list(self.options.items()),
            value=self.default,
            description=self.label,
            style={"description_width": "9em"},
            layout={"width": "28em"},
        )


Control = Slider | Choice


def mixing(default: float = 0.6) -> Slider:
    """Control the weight of the image context; text gets the rest."""
    return Slider(default, 0.0, 1.0, 0.05, "mixing (image)")


def strength(default: float = 0.75) -> Slider:
    """Control the share of the denoising that is run; 1 forgets the latent it starts from."""
    return Slider(default, 0.05, 1.0, 0.05, "strength")


def guidance(default: float = 7.5, high: float = 15.0) -> Slider:
    """Control the scale of classifier-free guidance; 1 is none."""
    return Slider(default, 1.0, high, 0.5, "guidance scale")


def dose(default: float = 1.0, low: float = 0.0, high: float = 3.0, label: str = "dose") -> Slider:
    """Control how strongly a region is activated, in units of the function that uses it."""
    return Slider(default, low, high, 0.25, label)


def doses(
    rois: Sequence[str],
    default: Mapping[str, float] | None = None,
    low: float = 0.0,
    high: float = 3.0,
) -> dict[str, Slider]:
    """Control the dose of several regions: one slider each, 0 unless `default` says more."""
    unknown = set(default or {}) - set(rois)
    if unknown:
        raise ValueError(
            f"default names {', '.join(sorted(unknown))}: not among the regions {', '.join(rois)}"
        )
    return {name: dose((default or {}).get(name, 0.0), low, high, name) for name in rois}


def choose_image(nsd_ids: Sequence[int], default: int = 0) -> Choice:
    """Control which test image is decoded: its row, shown with its nsd_id.

    Parameters
    ----------
    nsd_ids : (n,) of the test images, in the order of the rows
    default : row
    """
    return Choice(
        {f"{row}: nsd_id {int(nsd_id)}": row for row, nsd_id in enumerate(nsd_ids)},
        default,
        "test image",
    )


def defaults(controls: Mapping[str, Control]) -> dict[str, Any]:
    """Return the value that each control starts with."""
    return {name: control.default for name, control in controls.items()}


def sliders(function: Draw, *, interactive: bool, alt: Alt, **controls: Control) -> None:
    """Show what a function draws, with controls for its arguments.

    Parameters
    ----------
    function : takes the controls' values by name and returns a figure; it must depend on nothing
        else, because pictures are remembered by these values
    interactive : True draws widgets; False (batch runs, `study.interactive`) shows the default
        state as a plain figure
    alt : alt text, or a function of the same values that returns it
    **controls : one for each argument, such as ``mix=mixing(0.6)``

    Raises
    ------
    Exception
        Whatever the function raises on the default state: nothing is shown then.

    Examples
    --------
    >>> sliders(draw, interactive=study.interactive, alt="…", mix=mixing(), image=choose_image(ids))
    """
    if not interactive:
        start = defaults(controls)
        figures.show(function(**start), alt=_word(alt, start))
        return
    shown = Panel(function, alt, controls)
    # Readers without widgets (a web viewer, a stopped kernel) see the default state.
    still, metadata = shown.draw(**shown.values())
    display(
        {**still, **shown.box._repr_mimebundle_(), "text/plain": still["text/plain"]},
        metadata=metadata,
        raw=True,
    )


def watch_images(*, interactive: bool, words: str) -> Watch:
    """Show images that change while a long computation goes on.

    Parameters
    ----------
    interactive : True shows a widget at once; False (batch runs) shows nothing, and the caller
        draws what the computation kept as a static strip
    words : what the images show, written above them

    Returns
    -------
    watch : ``watch(iteration, images, losses)`` with (n, H, W, 3) uint8 images; shows them
    """
    if not interactive:
        return lambda iteration, images, losses: None
    head, view = ipywidgets.HTML(html.escape(words)), ipywidgets.Image(format="png")
    display(ipywidgets.VBox([head, view]))

    def watch(iteration: int, images: NDArray[np.uint8], losses: NDArray) -> None:
        stream = io.BytesIO()
        height, width = images.shape[1:3]
        scale = max(1, round(WATCHED / height))
        row = Image.fromarray(np.concatenate(images, axis=1))
        size = (scale * width * len(images), scale * height)
        row.resize(size, Image.Resampling.NEAREST).save(stream, format="png")
        said = f"{words}: iteration {iteration}, mean loss {np.nanmean(losses):.4f}"
        head.value, view.value = html.escape(said), stream.getvalue()

    return watch


class Panel:
    """Controls with the picture of their values below.

    An error in the function is shown in place of the picture, kept in the widget's state in the
    form in which the runner finds errors of a notebook, and raised again.

    Attributes
    ----------
    box : what to display
    controls : name -> widget
    view : widget that holds the picture

    Raises
    ------
    Exception
        Whatever the function raises on the default state.
    """

    def __init__(self, function: Draw, alt: Alt, controls: Mapping[str, Control]) -> None:
        """Draw the default state, outside any widget so that an error stops the notebook."""

        def draw(**values: Any) -> tuple[dict, dict]:
            return figures.bundle(function(**values), _word(alt, values))

        self.draw = functools.lru_cache(maxsize=REMEMBERED)(draw)
        first = self.draw(**defaults(controls))
        self.controls = {name: control.build() for name, control in controls.items()}
        self.view = ipywidgets.Output(outputs=(_picture(*first),))
        self.box = ipywidgets.VBox([*self.controls.values(), self.view])
        for widget in self.controls.values():
            widget.observe(self._update, names="value")

    def values(self) -> dict[str, Any]:
        """Return the present value of each control."""
        return {name: widget.value for name, widget in self.controls.items()}

    def _update(self, change: Mapping[str, Any]) -> None:
        self.view.layout.opacity = "0.4"  # the old picture, until the new one is there
        try:
            self.view.outputs = (_picture(*self.draw(**self.values())),)
        except Exception as error:
            self.view.outputs = (_record(error),)
            raise
        finally:
            self.view.layout.opacity = "1"


def _word(alt: Alt, values: Mapping[str, Any]) -> str:
    return alt(**values) if callable(alt) else alt


def _picture(data: dict[str, str], metadata: dict[str, dict]) -> dict[str, Any]:
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def _record(error: Exception) -> dict[str, Any]:
    lines = "".join(traceback.format_exception(error)).splitlines()
    return {
        "output_type": "error",
        "ename": type(error).__name__,
        "evalue": str(error),
        "traceback": lines,
    }
