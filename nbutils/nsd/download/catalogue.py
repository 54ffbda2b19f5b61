"""What the bucket has of one subject, and which of it is wanted.

Names that come from the server are held to patterns before they become names on disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nbutils.nsd.layout import Layout, subject_name
from nbutils.nsd.stimuli import Stimuli
from nbutils.nsd.surfaces import surface_files
from nbutils.transfer.progress import Meter
from nbutils.transfer.transport import Entry, FetchError, Remote

IMAGES = ("stimuli", "coco", "none")
"""Where a subject's own images come from: NSD's stimulus file, COCO's photographs, nowhere."""
_ROI = re.compile(r"(?:lh\.|rh\.)?[A-Za-z0-9][A-Za-z0-9_.-]*\.nii\.gz")
_LABELS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.mgz\.ctab")
_TEMPLATES = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.ctab")
_PRF = re.compile(r"prf_[A-Za-z0-9]+\.nii\.gz")
_SHARED = re.compile(r"shared(\d{4})_nsd(\d{5})\.png")
_PRF_MAPS = ("prf_angle", "prf_eccentricity", "prf_size")


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes
    ----------
    subject : 1 to 8
    sessions : ascending, from 1
    images : one of `IMAGES`
    atlases : whose labelled voxels are kept of the betas
    keep_raw : keep the ``.nii.gz`` files too
    surfaces : fetch the subject's inflated cortex too, see `nbutils.nsd.surfaces.surface_files`
    """

    subject: int
    sessions: tuple[int, ...]
    images: str = "stimuli"
    atlases: tuple[str, ...] = ("nsdgeneral", "streams")
    keep_raw: bool = False
    surfaces: bool = True

    def __post_init__(self) -> None:
        subject_name(self.subject)
        if self.images not in IMAGES:
            raise ValueError(f"images={self.images!r}: choose one of {', '.join(IMAGES)}")
        bad = [name for name in self.atlases if not _ROI.fullmatch(f"{name}.nii.gz")]
        if bad or not self.atlases:
            raise ValueError(f"atlases={self.atlases}: name at least one, such as nsdgeneral")
        numbers = self.sessions
        if not numbers or any(type(n) is not int or not 1 <= n <= 99 for n in numbers):
            raise ValueError(f"sessions={list(numbers)}: name whole numbers counted from 1")
        if sorted(set(numbers)) != list(numbers):
            raise ValueError(f"sessions={list(numbers)}: name each session once, in order")


@dataclass(frozen=True)
class Catalogue:
    """What will be needed, as the server describes it.

    Attributes
    ----------
    files : whole files by their place on disk
    betas : sessions by number
    shared : shared images by nsd_id (0-based)
    brick : the stimulus file, or None if not wanted
    missing : keys that the server lacks and that one can do without
    """

    files: dict[Path, Entry]
    betas: dict[int, Entry]
    shared: dict[int, Entry]
    brick: Entry | None
    missing: tuple[str, ...]


def look_up(remote: Remote, layout: Layout, request: Request, meter: Meter) -> Catalogue:
    """List the folders of one subject and choose what is wanted.

    Raises
    ------
    FetchError
        Names the first key that is needed and that the server lacks.
    """
    found = _list_folders(remote, layout, request, meter)
    return Catalogue(*_choose_files(layout, request, found, remote.address))


def _list_folders(
    remote: Remote, layout: Layout, request: Request, meter: Meter
) -> dict[str, Entry]:
    subject = request.subject
    folders = [
        layout.expdesign().parent,
        layout.ppdata(subject),
        layout.behaviour(subject).parent,
        layout.betas_folder(subject),
        _label_folder(layout, subject_name(subject)),
        _label_folder(layout, "fsaverage"),
        layout.templates(),
    ]
    if request.images != "none":
        folders.append(layout.stimuli().parent)
    folders += sorted({path.parent for path in _wanted_surfaces(layout, request)})
    with ThreadPoolExecutor(len(folders)) as pool:
        try:
            listings = list(pool.map(lambda one: remote.list(layout.key(one), meter), folders))
        except BaseException:
            meter.stop()  # else leaving the pool waits for every attempt of every folder
            raise
    return {key: entry for listing in listings for key, entry in listing.items()}


def _label_folder(layout: Layout, who: str) -> Path:
    return layout.root / f"nsddata/freesurfer/{who}/label"


def _choose_files(
    layout: Layout, request: Request, found: dict[str, Entry], address: str
) -> tuple[dict[Path, Entry], dict[int, Entry], dict[int, Entry], Entry | None, tuple[str, ...]]:
    rois = _matching(layout, found, layout.roi(request.subject, "x").parent, _ROI)
    if not rois:
        folder = layout.key(layout.roi(request.subject, "x").parent)
        raise FetchError(
            f"{address} lists no region of interest in {folder}: without masks no voxel can be "
            "chosen, so check the address of the server"
        )
    needed, optional = _fixed_names(layout, request)
    betas = {number: layout.betas(request.subject, number) for number in request.sessions}
    for path in (*needed, *betas.values()):
        if layout.key(path) not in found:
            raise FetchError(_absent(layout, request, found, path, address))
    folders = {"prf": layout.ppdata(request.subject)}
    files = {path: found[layout.key(path)] for path in needed}
    files |= {p: found[layout.key(p)] for p in optional if layout.key(p) in found}
    files |= rois | _matching(layout, found, folders["prf"], _PRF)
    for who in (subject_name(request.subject), "fsaverage"):
        files |= _matching(layout, found, _label_folder(layout, who), _LABELS)
    files |= _matching(layout, found, layout.templates(), _TEMPLATES)
    missing = tuple(layout.key(path) for path in optional if layout.key(path) not in found)
    sessions = {number: found[layout.key(path)] for number, path in betas.items()}
    shared, brick = _choose_images(layout, request, found, address)
    return files, sessions, shared, brick, missing


def _fixed_names(layout: Layout, request: Request) -> tuple[list[Path], list[Path]]:
    """Return what one cannot do without, and what one can."""
    subject, betas = request.subject, layout.betas_folder(request.subject)
    needed = [
        layout.expdesign(),
        layout.stim_info(),
        layout.behaviour(subject),
        layout.volume(subject, "brainmask"),
        layout.ncsnr(subject),
        *(layout.roi(subject, atlas) for atlas in request.atlases),
    ]
    volumes = ["mean", "T1_to_func1pt8mm", "R2", *_PRF_MAPS]
    volumes += [f"valid_session{number:02d}" for number in request.sessions]
    maps = ("ncsnr_split1", "ncsnr_split2", "meanbeta", "R2")
    optional = [layout.volume(subject, name) for name in volumes]
    optional += [betas / f"{name}.nii.gz" for name in maps]
    return needed, optional + _wanted_surfaces(layout, request)


def _wanted_surfaces(layout: Layout, request: Request) -> list[Path]:
    """Return the files of both hemispheres, if they are wanted."""
    if not request.surfaces:
        return []
    return [path for side in surface_files(layout, request.subject).values() for path in side]


def _matching(
    layout: Layout, found: dict[str, Entry], folder: Path, pattern: re.Pattern[str]
) -> dict[Path, Entry]:
    """Choose the listed files that lie in a folder itself and whose names fit a pattern."""
    prefix = layout.key(folder) + "/"
    names = {
        key.removeprefix(prefix): entry for key, entry in found.items() if key.startswith(prefix)
    }
    return {
        folder / name: entry
        for name, entry in sorted(names.items())
        if pattern.fullmatch(name) and ".." not in name
    }


def _choose_images(
    layout: Layout, request: Request, found: dict[str, Entry], address: str
) -> tuple[dict[int, Entry], Entry | None]:
    if request.images == "none":
        return {}, None
    if layout.stimuli().is_file():
        try:
            Stimuli(layout)
        except ValueError as error:
            raise FetchError(f"{error}, or delete it, and its images come one by one") from error
        return {}, None
    listed = _matching(layout, found, layout.stimuli().parent / "shared1000", _SHARED)
    # The number in NSD's file names counts from 1, nsd_id from 0.
    shared = {int(_SHARED.fullmatch(path.name)[2]) - 1: entry for path, entry in listed.items()}
    if not shared:
        folder = layout.key(layout.stimuli().parent / "shared1000")
        raise FetchError(f"{address} lists no image in {folder}: fetch with images='none'")
    if request.images == "coco":
        return shared, None
    brick = found.get(layout.key(layout.stimuli()))
    if brick is None:
        raise FetchError(
            f"{address} has no {layout.key(layout.stimuli())}: fetch with images='coco' or 'none'"
        )
    return shared, brick


def _absent(
    layout: Layout, request: Request, found: dict[str, Entry], path: Path, address: str
) -> str:
    """Say what the server lacks, and what it has instead."""
    known = _known(found, layout.key(path.parent) + "/")
    betas = path.parent == layout.betas_folder(request.subject)
    remedy = "fetch other sessions" if betas else "check the address of the server"
    if path.parent == layout.roi(request.subject, "x").parent:
        remedy = f"choose atlases among {', '.join(known)}"
    return f"{address} has no {layout.key(path)}: {remedy}"


def _known(found: dict[str, Entry], prefix: str) -> list[str]:
    names: Iterable[str] = (key.removeprefix(prefix) for key in found if key.startswith(prefix))
    return sorted(
        name.removesuffix(".nii.gz") for name in names if not name.startswith(("lh.", "rh."))
    )
