"""Write a stand-in of one subject, step by step; steps already done are kept.

The folder is marked as a stand-in by ``STANDIN.json``, which holds what it was made from. Every
file gets its name only when it is whole, so a call that was killed is simply made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm.auto import tqdm

from nbutils.miniature import experiment
from nbutils.miniature.standin import coco, design, stimuli
from nbutils.miniature.standin.brain import grow
from nbutils.miniature.standin.design import Experiment
from nbutils.miniature.standin.files import make, whole
from nbutils.miniature.standin.sessions import WRITERS, Scanner, record
from nbutils.miniature.standin.size import SUBJECTS, Size
from nbutils.miniature.standin.volumes import lost_sessions, write_volumes
from nbutils.miniature.standin.voxels import plant
from nbutils.nsd.layout import SPLITS, Layout

VERSION = 1
"""Raised when the same parameters would give other files."""
MARKER = "STANDIN.json"
_WHAT = (
    "A simulated stand-in in the layout of the Natural Scenes Dataset, for testing programs at "
    "real size. Nothing here was measured, and none of it is NSD's."
)
_STEPS = ".standin"
_MAT_TEXT = 116


def synthesize(
    root: Path,
    like: str = "subj01",
    sessions: int = 1,
    *,
    formats: Iterable[str] = ("nii.gz",),
    images: bool = True,
    seed: int = 0,
    progress: bool = True,
    size: Size | None = None,
) -> Layout:
    """Write a stand-in of one of NSD's subjects, of real size, in the bucket's own layout.

    A second call adds what is missing: more sessions, another format, another subject.

    Parameters
    ----------
    root : folder to write; empty, absent, or an earlier stand-in of the same seed and size
    like : ``subj01`` to ``subj08``, whose grid, voxel counts and noise ceilings are copied
    sessions : how many sessions to record, from the first
    formats : of the betas, among "nii.gz" and "hdf5"; both hold the same numbers
    images : whether to draw the images of these sessions, the shared ones, and photographs
    seed : another seed is another experiment and other brains
    progress : show bars
    size : None is NSD's; smaller ones are for tests

    Returns
    -------
    Layout of the folder. ``root / "coco"`` stands in for COCO's server.

    Raises
    ------
    ValueError
        If an argument is impossible, or `root` holds something else.

    Notes
    -----
    ``ncsnr`` is what was planted, not an estimate from the repeats: three sessions hold too few.
    """
    size = Size() if size is None else size
    wanted = _check_arguments(like, sessions, formats, size)
    layout = Layout(Path(root))
    _claim(layout.root, seed, size)
    with FileLock(layout.root / _STEPS / "lock"):
        plan = design.plan(size, seed)
        known = coco.photographs(plan.n_scenes, seed)
        _write_tables(layout, plan, known, like, size.recorded(like))
        _write_annotations(layout, plan, known, like)
        if images:
            _write_images(layout, plan, known, like, sessions, size.image_side, progress)
        _write_brain(layout, plan, like, sessions, wanted, size, progress)
    return layout


def _check_arguments(like: str, sessions: int, formats: Iterable[str], size: Size) -> list[str]:
    if like not in SUBJECTS:
        raise ValueError(f"like={like!r}: choose one of {', '.join(SUBJECTS)}")
    last = size.recorded(like)
    if not 1 <= sessions <= last:
        raise ValueError(f"sessions={sessions}: {like} has 1 to {last} sessions")
    wanted = [formats] if isinstance(formats, str) else list(formats)
    unknown = [one for one in wanted if one not in WRITERS]
    if unknown or not wanted:
        raise ValueError(f"formats={wanted}: choose among {' and '.join(WRITERS)}")
    return wanted


def _claim(root: Path, seed: int, size: Size) -> None:
    """Mark an empty folder as a stand-in; refuse any other, so that no real data are touched."""
    # Through JSON, as tuples come back as lists.
    made_from = json.loads(json.dumps({"seed": seed, "version": VERSION} | asdict(size)))
    marker = root / MARKER
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file: give a folder for the stand-in")
    if marker.is_file():
        there = json.loads(marker.read_text(encoding="utf-8"))["made_from"]
        for key, value in made_from.items():
            if there.get(key) != value:
                raise ValueError(
                    f"{root} holds a stand-in made with {key}={there.get(key)}, not {value}: "
                    "give another folder or delete this one"
                )
    elif root.exists() and any(root.iterdir()):
        raise ValueError(
            f"{root} holds files and no {MARKER}, so it is no stand-in: give an empty folder"
        )
    (root / _STEPS).mkdir(parents=True, exist_ok=True)
    text = json.dumps({"what": _WHAT, "made_from": made_from}, indent=1)
    make(marker, lambda path: path.write_text(text + "\n", encoding="utf-8"))


def _once(layout: Layout, step: str, work: Callable[[], None]) -> None:
    """Do a step of several files unless it was finished before."""
    mark = layout.root / _STEPS / step
    if not mark.exists():
        work()
        mark.touch()


def _write_tables(
    layout: Layout, plan: Experiment, known: coco.Photographs, like: str, recorded: int
) -> None:
    """Write the design, the table of images, and the subject's button presses."""
    subject = int(like[4:])
    make(layout.expdesign(), lambda path: _savemat(path, plan))
    make(layout.stim_info(), lambda path: design.write_stim_info(path, plan, known))
    make(
        layout.behaviour(subject),
        lambda path: experiment.write_behaviour(path, plan, subject, recorded),
    )
    problems = layout.root / "nsddata/information/knowndataproblems.txt"
    make(problems, lambda path: path.write_text(_WHAT + "\n", encoding="utf-8"))


def _savemat(path: Path, plan: Experiment) -> None:
    # An open file, because savemat would append .mat to the temporary name.
    with open(path, "wb") as file:
        experiment.write_expdesign(file, plan)
        # The header's free text holds the date; without it the same seed gives the same bytes.
        file.seek(0)
        file.write(b"MATLAB 5.0 MAT-file, a stand-in".ljust(_MAT_TEXT))


def _write_annotations(
    layout: Layout, plan: Experiment, known: coco.Photographs, like: str
) -> None:
    """Write captions and objects of all subjects so far, as files and as COCO's zip."""
    folder = layout.captions(SPLITS[0]).parent

    def write() -> None:
        done = [one for one in SUBJECTS if (layout.root / _STEPS / f"{one}_annotations").exists()]
        rows = [int(one[4:]) - 1 for one in {*done, like}]
        folder.mkdir(exist_ok=True)
        with whole(layout.root / stimuli.COCO / "annotations" / coco.ZIP) as archive:
            scratch = layout.root / _STEPS
            made = coco.write_annotations(scratch, np.unique(plan.images[rows]), known)
            coco.write_zip(archive, made)
        for path in made:
            path.replace(folder / path.name)

    _once(layout, f"{like}_annotations", write)


def _write_images(
    layout: Layout,
    plan: Experiment,
    known: coco.Photographs,
    like: str,
    sessions: int,
    side: int,
    progress: bool,
) -> None:
    """Draw the shared images and those of the sessions."""
    create = partial(stimuli.create_brick, n_images=plan.n_scenes, side=side)
    make(layout.stimuli(), create)
    _once(layout, "shared", lambda: stimuli.write_shared(layout, plan.shared, side, progress))
    drawn = np.zeros(0, np.int64)
    for session in range(1, sessions + 1):
        shown = np.unique(plan.shown(int(like[4:]), range(session, session + 1)))
        new = np.setdiff1d(shown, drawn)
        _once(
            layout,
            f"{like}_images_session{session:02d}",
            partial(stimuli.write_images, layout, new, known, progress),
        )
        drawn = np.union1d(drawn, shown)


def _write_brain(
    layout: Layout,
    plan: Experiment,
    like: str,
    sessions: int,
    formats: list[str],
    size: Size,
    progress: bool,
) -> None:
    """Write the volumes, then record the sessions that are missing in some format."""
    subject, recorded = int(like[4:]), size.recorded(like)
    missing = {
        session: [one for one in formats if not layout.betas(subject, session, one).exists()]
        for session in range(1, sessions + 1)
    }
    missing = {session: wanted for session, wanted in missing.items() if wanted}
    volumes = layout.root / _STEPS / f"{like}_volumes"
    if not missing and volumes.exists():
        return
    brain = grow(like, size, plan.seed)
    voxels = plant(brain, plan.seed, size.scale)
    _once(layout, volumes.name, lambda: write_volumes(layout, brain, voxels, recorded, plan.seed))
    scanner = Scanner(brain, voxels, plan, lost_sessions(brain, recorded, plan.seed), plan.seed)
    for session in tqdm(missing, desc=f"{like}: sessions", disable=not progress):
        stored = record(scanner, session, progress=progress)
        for file_format in missing[session]:
            with whole(layout.betas(subject, session, file_format)) as path:
                WRITERS[file_format](path, stored, scanner)
        del stored  # before the next one of half a gigabyte is made
