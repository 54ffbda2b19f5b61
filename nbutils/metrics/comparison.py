"""All systems side by side: the same test images, the same judge, the same controls."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nbutils.metrics import bootstrap
from nbutils.metrics.controls import CONDITIONS, take_rows

Values = NDArray[np.float64]
_SYMBOLS = {"clip_image": "C_I", "clip_text": "C_T"}
OWN, CEILING = "own responses", "ground-truth features"


@dataclass(frozen=True)
class SavedSystem:
    """Where a system's results lie.

    Parameters
    ----------
    title : as figures and tables call it
    images : file below `images/`, (n, H, W, 3) or (n, samples, H, W, 3) uint8
    captions : file below `captions/`; None where it says nothing
    """

    title: str
    images: str
    captions: str | None = None


SYSTEMS: dict[str, SavedSystem] = {
    "brain_diffuser": SavedSystem("Brain-Diffuser", "brain_diffuser.npy"),
    "neural_recon": SavedSystem("Neural-Recon", "neural_recon.npy"),
    "unibrain": SavedSystem("UniBrain", "unibrain.npy", "unibrain.json"),
    "takagi": SavedSystem("Takagi & Nishimoto", "takagi.npy"),
    "minddiffuser": SavedSystem("MindDiffuser", "minddiffuser.npy"),
}
"""Name of a system's module -> its results."""


class Judge(Protocol):
    """What measures one set of images or captions, such as `VariantJudge` or `CaptionJudge`."""

    def measure(self, found: Any) -> Mapping[str, Values]:
        """Measure -> (n,)."""

    def measure_chance(self, found: Any) -> Mapping[str, Values]:
        """Measure -> (n,), against other images than their own."""


def find_systems(study: Any, wanted: Sequence[str] | None = None) -> tuple[list[str], list[str]]:
    """Find out which systems have left pictures.

    Parameters
    ----------
    study : `nbutils.study.Study`
    wanted : names of `SYSTEMS`; by default all of them

    Returns
    -------
    present, absent : names

    Raises
    ------
    ValueError
        If a name is unknown or no system is present.
    """
    names = list(SYSTEMS if wanted is None else wanted)
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise ValueError(f"systems={unknown[0]!r}: choose from {', '.join(SYSTEMS)}.")
    present = [name for name in names if study.path("images", SYSTEMS[name].images).is_file()]
    if not present:
        raise ValueError(
            f"No system of {', '.join(names)} has left pictures under {study.path('images')}; run "
            "04_reconstruct_images or 05_unify_images_and_captions first."
        )
    return present, [name for name in names if name not in present]


def find_speakers(study: Any, names: Collection[str]) -> list[str]:
    """Return which of these systems have left captions, in the order of `SYSTEMS`."""
    files = {name: SYSTEMS[name].captions for name in SYSTEMS if name in names}
    return [name for name, file in files.items() if file and study.path("captions", file).is_file()]


def common_ids(
    study: Any, names: Sequence[str], kind: Literal["images", "captions"] = "images"
) -> NDArray[np.int64]:
    """Images that all these systems decoded, in the order of the first, (n,) nsd_ids.

    Parameters
    ----------
    study : `nbutils.study.Study`
    names : of `SYSTEMS`
    kind : what they made of the images; "captions" is for names of `find_speakers`

    Raises
    ------
    ValueError
        If they have fewer than two images in common.
    """
    lists = [study.ids(kind, getattr(SYSTEMS[name], kind)) for name in names]
    ids = lists[0][np.logical_and.reduce([np.isin(lists[0], other) for other in lists])]
    if len(ids) < 2:
        raise ValueError(
            f"{', '.join(names)} have {len(ids)} decoded {kind} in common; run their notebooks on "
            "the same images."
        )
    return ids


def load_images(study: Any, name: str, nsd_ids: NDArray[np.int64]) -> dict[str, NDArray[np.uint8]]:
    """Load a system's pictures of some images, and those of its controls that it has saved.

    A control lies beside the pictures as `<name>_<condition>.npy`, with the endings of
    `nbutils.metrics.controls.CONDITIONS` and "_ground_truth".

    Parameters
    ----------
    study : `nbutils.study.Study`
    name : of `SYSTEMS`
    nsd_ids : (n,) images

    Returns
    -------
    images : condition -> (n, ...) uint8; "own responses" first
    """
    return _load_conditions(study, "images", SYSTEMS[name].images, nsd_ids)


def load_captions(study: Any, name: str, nsd_ids: NDArray[np.int64]) -> dict[str, list[str]]:
    """Load what a system says about some images, and its controls, as `load_images` does.

    Parameters
    ----------
    study : `nbutils.study.Study`
    name : of `SYSTEMS`
    nsd_ids : (n,) images

    Returns
    -------
    captions : condition -> n sentences, "own responses" first; empty where the system says nothing
    """
    file = SYSTEMS[name].captions
    return {} if file is None else _load_conditions(study, "captions", file, nsd_ids)


def _load_conditions(study: Any, kind: str, own: str, nsd_ids: NDArray[np.int64]) -> dict[str, Any]:
    """Rows of an artifact and of its controls, where they were saved and have rows."""
    stem, suffix = own.rsplit(".", 1)
    files = {condition: f"{stem}{end}.{suffix}" for condition, end in CONDITIONS.items()}
    files[CEILING] = f"{stem}_ground_truth.{suffix}"
    there = {c: file for c, file in files.items() if study.path(kind, file).is_file()}
    found = {c: take_rows(study, kind, file, nsd_ids) for c, file in there.items()}
    return {condition: rows for condition, rows in found.items() if rows is not None}


def load_own(study: Any, name: str, nsd_ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Load a system's pictures from a subject's own responses, without its controls.

    Parameters
    ----------
    study : `nbutils.study.Study`
    name : of `SYSTEMS`
    nsd_ids : (n,) images

    Returns
    -------
    images : (n, ...) uint8
    """
    return take_rows(study, "images", SYSTEMS[name].images, nsd_ids)


def first_sample(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return one picture per image, (n, H, W, 3): the first, where there are several samples."""
    return images[:, 0] if images.ndim == 5 else images


def compare(judge: Judge, results: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Measure several systems, each beside its chance, its controls and its ceiling.

    Parameters
    ----------
    judge : of the presented images or their captions
    results : system -> condition -> pictures or captions, rows in the judge's order; "own
        responses" must be among the conditions, "ground-truth features" is the ceiling

    Returns
    -------
    table : one row per system and measure, columns system, measure, value, low, high (bootstrap
        over images), chance, ceiling, n, and one column for every other condition, NaN where a
        system does not have it

    Raises
    ------
    ValueError
        If a system comes without its own responses.
    """
    rows = []
    for system, conditions in results.items():
        if OWN not in conditions:
            raise ValueError(f"{system}: give its pictures under {OWN!r}.")
        means = {
            condition: {name: float(v.mean()) for name, v in judge.measure(found).items()}
            for condition, found in conditions.items()
            if condition != OWN
        }
        chance = judge.measure_chance(conditions[OWN])
        for name, values in judge.measure(conditions[OWN]).items():
            score = bootstrap.score(name, values, chance=chance[name])
            row = {"system": system, "measure": name, "value": score.value, "low": score.low}
            row |= {"high": score.high, "chance": score.chance, "n": score.n_images}
            row |= {kind: measured[name] for kind, measured in means.items()}
            rows.append(row)
    table = pd.DataFrame(rows).rename(columns={CEILING: "ceiling"})
    if "ceiling" not in table:
        table["ceiling"] = np.nan
    first = ["system", "measure", "value", "low", "high", "chance", "ceiling", "n"]
    return table[[*first, *(column for column in table if column not in first)]]


def side_by_side(table: pd.DataFrame, digits: int = 2) -> pd.DataFrame:
    """Lay a table of `compare` out for reading: one row per system, one column per measure.

    Parameters
    ----------
    table : from `compare`
    digits : after the point

    Returns
    -------
    laid_out : of strings, "value [low, high]"
    """
    text = [
        f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
        for value, low, high in table[["value", "low", "high"]].to_numpy(float)
    ]
    laid = table.assign(text=text).pivot(index="system", columns="measure", values="text")
    return laid.loc[table["system"].unique(), table["measure"].unique()]


def ablation_rows(inputs: Sequence[str], rows: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Translate rows of an ablation, by the papers' symbols, into the inputs that a system uses.

    The symbols are Z, the latent that a flow starts from (of whichever kind the system has), C_I
    and C_T, the contexts, and C for both contexts. So one list of rows serves the image and the
    caption flow, and Brain-Diffuser as well as UniBrain.

    Parameters
    ----------
    inputs : all inputs of a system, such as ``unibrain.CAPTION_INPUTS``
    rows : each "only" or "without" and a symbol

    Returns
    -------
    rows : name -> inputs to use, "full" first; pass one of these as ``inputs=``

    Raises
    ------
    ValueError
        If a row means nothing.

    Examples
    --------
    >>> ablation_rows(("optimus", "clip_image", "clip_text"), ["without C"])
    {'full': ('optimus', 'clip_image', 'clip_text'), 'without C': ('optimus',)}
    """
    symbols = {name: _SYMBOLS.get(name, "Z") for name in inputs}
    found = {"full": tuple(inputs)}
    for row in rows:
        word, _, symbol = row.partition(" ")
        meant = [name for name, known in symbols.items() if symbol in (known, known[0])]
        if word not in ("only", "without") or not meant:
            raise ValueError(
                f"ablation={row!r}: say 'only' or 'without', then Z, C_I, C_T, or C for both."
            )
        kept = [name for name in inputs if (name in meant) == (word == "only")]
        found[row] = tuple(kept)
    return found


def split_ablation(
    values: Mapping[str, Mapping[str, Values]],
    low_level: str,
    semantic: str,
    chance: Mapping[str, Values],
) -> tuple[dict[str, bootstrap.Score], dict[str, bootstrap.Score]]:
    """Take one measure of layout and one of meaning out of an ablation.

    Parameters
    ----------
    values : row of the ablation -> measure -> (n,)
    low_level, semantic : measures
    chance : measure -> (n,)

    Returns
    -------
    low_level, semantic : row -> `nbutils.metrics.bootstrap.Score`
    """
    return tuple(
        {
            row: bootstrap.score(measure, found[measure], chance=chance[measure])
            for row, found in values.items()
        }
        for measure in (low_level, semantic)
    )
