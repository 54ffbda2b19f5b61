"""The two worlds: what differs between simulated brains and the real dataset, as plain data."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent

NSD_ROIS = (
    *("V1", "V2", "V3", "hV4", "faces", "bodies", "places", "words"),
    *("ecc0pt5", "ecc1", "ecc2", "ecc4", "ecc4+"),
)
"""Brain-Diffuser's thirteen regions, cut from NSD's atlases."""

PUBLISHED_ALPHAS = {
    "vdvae": 50_000.0,
    "clip_text": 100_000.0,
    "clip_image": 60_000.0,
    # No source known to us states the two below; the image context's value is our choice.
    "autokl": 60_000.0,
    "optimus": 60_000.0,
}
"""Ridge penalties of Brain-Diffuser's code, for z-scored responses of subject 1."""

PUBLISHED_SIZE = 8_859 * 15_724
"""Training images x voxels behind `PUBLISHED_ALPHAS` (subject 1, 37 sessions)."""


@dataclass(frozen=True)
class World:
    """Where a world's files lie, and the sizes that follow from its networks and its brains.

    Attributes
    ----------
    name, title : str
        What users type, and what sentences call it.
    subjects : tuple of int
        Subjects, 1-based.
    sessions : tuple of int
        Recorded sessions of each subject, in the order of `subjects`.
    rois : tuple of str
        Regions that can be stimulated, by the names of `nbutils.synthetic`.
    data, networks : Path
        Default folders; a relative one starts at the project's root (`find_root`).
    image_size : int
        Side of a generated image, pixels.
    vdvae_layers : int
        How many of VDVAE's latent layers are decoded from the brain.
    guidance_scale : float
        Default strength of classifier-free guidance.
    alpha_scale : float
        Factor on the published ridge penalties.
    maker : str or None
        `module:function` that makes the data on first use; None where brains were recorded.
    fetcher : str or None
        `module:function` that downloads a subject's data; None where there is nothing to get.
    vocabulary : str or None
        `module:mapping` of category -> words that name it in a caption, in the order of the
        classifier's outputs; None where no such list was drawn up.
    """

    name: str
    title: str
    subjects: tuple[int, ...]
    sessions: tuple[int, ...]
    rois: tuple[str, ...]
    data: Path
    networks: Path
    image_size: int
    vdvae_layers: int
    guidance_scale: float
    alpha_scale: float
    maker: str | None
    fetcher: str | None = None
    vocabulary: str | None = None

    @property
    def alphas(self) -> dict[str, float]:
        """Ridge penalty of each feature space: the published one times `alpha_scale`.

        A penalty acts against the kernel's eigenvalues, and for z-scored voxels these sum to
        training images x voxels; so a smaller world scales the published value by that product.
        """
        return {name: alpha * self.alpha_scale for name, alpha in PUBLISHED_ALPHAS.items()}

    def category_words(self) -> dict[str, frozenset[str]]:
        """Return the words that name each category; empty where no such list was drawn up."""
        return {} if self.vocabulary is None else dict(_find_object(self.vocabulary))

    def sessions_of(self, subject: int) -> int:
        """Return how many sessions `subject` has."""
        return self.sessions[self.subjects.index(subject)]

    def session_numbers(self, subject: int, sessions: int | str | None) -> list[int]:
        """Return the sessions (1-based, ascending) that a short description means.

        Parameters
        ----------
        subject : int
            1-based.
        sessions : int, str or None
            The first so many; or ranges such as `"5-20"` and `"1,3,7-9"`; or `"classic"`, all but
            the last three, which NSD withheld until 2023 (subject 1: 37 sessions, 8,859 training
            and 982 test images); or `"full"` or None, all (9,000 and 1,000).

        Raises
        ------
        ValueError
            If it means nothing, or a session that the subject does not have.
        """
        last = self.sessions_of(subject)
        text = {None: f"1-{last}", "full": f"1-{last}", "classic": f"1-{last - 3}"}.get(
            sessions, f"1-{sessions}" if isinstance(sessions, int) else sessions
        )
        try:
            numbers = _read_ranges(text)
        except ValueError:
            raise ValueError(
                f"sessions={sessions!r}: say how many, or ranges such as '1-10,12', "
                "or 'classic' or 'full'"
            ) from None
        if numbers[0] < 1 or numbers[-1] > last:
            raise ValueError(
                f"sessions={sessions!r}: subject {subject} of {self.title} has {last}, from 1"
            )
        return numbers

    def prepare(
        self,
        root: Path,
        subject: int,
        sessions: int | str | None = None,
        accept_terms: bool = False,
        **recording: float,
    ) -> Path:
        """Make or fetch what is missing of a subject's data under `root`.

        Parameters
        ----------
        root : Path
            Folder in NSD's on-disk layout.
        subject : int
            1-based.
        sessions : int, str or None
            Which sessions a download brings, see `session_numbers`.
        accept_terms : bool
            Whether the user read and accepted the data's terms. Nothing is downloaded otherwise.
        **recording
            What a simulated recording lets one choose, such as `snr` and `repeats`.

        Returns
        -------
        Path
            `root`.

        Raises
        ------
        FileNotFoundError
            If the data are missing and only the reader can bring them.
        """
        if self.maker is not None:
            _find_object(self.maker)(root, subjects=(subject,), **recording)
        elif self.fetcher is not None and accept_terms:
            numbers = self.session_numbers(subject, sessions)
            _find_object(self.fetcher)(root, subject, numbers, accept_terms=True)
        elif not (root / "nsddata").is_dir():
            raise FileNotFoundError(
                f"{root}: no {self.title} data here; `python -m nbutils nsd fetch --subject "
                f"{subject}` shows the terms and gets them (data/README.md says what and how "
                "much), or use world='miniature', which needs none"
            )
        return root


def _read_ranges(text: str) -> list[int]:
    """Read "1,3,7-9"; raises ValueError where it is no such list or names a number twice."""
    numbers = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        numbers += range(int(first), int(last if dash else first) + 1)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(text)
    return sorted(numbers)


WORLDS = {
    "miniature": World(
        name="miniature",
        title="the miniature world",
        subjects=(1, 2, 3, 4),
        sessions=(16, 16, 16, 16),
        rois=(*NSD_ROIS, "food"),
        data=Path("data/miniature"),
        networks=PACKAGE / "miniature" / "weights",
        image_size=64,
        vdvae_layers=12,
        guidance_scale=4.0,
        alpha_scale=3_600 * 4_000 / PUBLISHED_SIZE,
        maker="nbutils.miniature.write:make",
        vocabulary="nbutils.miniature.captions:CATEGORY_WORDS",
    ),
    "nsd": World(
        name="nsd",
        title="NSD",
        subjects=(1, 2, 3, 4, 5, 6, 7, 8),
        sessions=(40, 40, 32, 30, 40, 32, 40, 30),
        rois=NSD_ROIS,
        data=Path("data/nsd"),
        networks=Path("data/networks"),
        image_size=512,
        vdvae_layers=31,
        guidance_scale=7.5,
        alpha_scale=1.0,
        maker=None,
        fetcher="nbutils.nsd.download:fetch",
    ),
}


def find_world(name: str) -> World:
    """Return the world called `name`.

    Raises
    ------
    ValueError
        If there is no such world.
    """
    if name not in WORLDS:
        raise ValueError(f"world={name!r}: there are {' and '.join(map(repr, WORLDS))}")
    return WORLDS[name]


def _find_object(place: str) -> Any:
    """Return what `module:name` means; by name, because the simulator stands above this module."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def find_root(start: Path | None = None) -> Path:
    """Return the project's folder: the nearest one at or above `start` that holds the notebooks.

    Away from a checkout (a Colab notebook, say) it is `start`, by default the working folder.
    """
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "notebooks" / "notebooks.yml").is_file():
            return folder
    return start


def default_data(world: World) -> Path:
    """Return where `world`'s data lie unless told: `$NBUTILS_DATA/<world>` or the project's."""
    shared = os.environ.get("NBUTILS_DATA")
    return Path(shared) / world.name if shared else find_root() / world.data
