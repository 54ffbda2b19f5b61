"""Write the miniature world in NSD's on-disk layout.

``make(root)`` is done once: a finished marker per subject makes the next call return at once, and
whatever has no marker is made again. Every subject is written beside the target and renamed.
Files that NSD has no counterpart for: ``truth/`` (what each voxel prefers, responses without
noise), the atlas ``floc-food``, and the markers in ``.miniature/``.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
from filelock import FileLock
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from tqdm.auto import tqdm

from nbutils.miniature import experiment, scenes
from nbutils.miniature.cortex import SUBJECTS, Cortex
from nbutils.miniature.experiment import Plan
from nbutils.miniature.recording import Recording, write_session
from nbutils.miniature.volumes import write_subject_volumes
from nbutils.nsd.layout import Layout, subject_name

VERSION = 2
"""Raised when the same parameters would give other files; older worlds are then made again."""
MARKERS = ".miniature"
SCENES_PER_JOB = 160


@dataclass(frozen=True)
class Parameters:
    """Everything that decides the content of a world, kept in its marker."""

    seed: int = 0
    snr: float = 1.0
    repeats: int = 3
    n_shared: int = 400
    n_private: int = 3600
    voxel_scale: float = 1.0
    recorded: int | None = None
    version: int = VERSION


def make(
    root: Path,
    subjects: Iterable[int] = (1,),
    snr: float = 1.0,
    repeats: int = 3,
    seed: int = 0,
    progress: bool = True,
    *,
    n_shared: int = 400,
    n_private: int = 3600,
    voxel_scale: float = 1.0,
    recorded: int | None = None,
    workers: int | None = None,
) -> Layout:
    """Make (what is missing of) a miniature world.

    Parameters
    ----------
    root : folder for the world; empty, absent, or an earlier world of the same parameters
    subjects : from 1 to 4; others may be added by a later call
    snr : factor on the signal; 1 gives noise ceilings near NSD's, 0 a brain without signal
    repeats : how often every image is shown (NSD: 3)
    seed : another seed is another world
    progress : show bars
    n_shared, n_private : images that all see, and that one sees
    voxel_scale : share of the about 4,100 voxels
    recorded : sessions that took place; None takes all that are planned. With fewer, the design
        and the stimulus table list showings that never happened, as for four of NSD's subjects
    workers : processes; None takes two, or one on one core

    Returns
    -------
    Layout of the world

    Raises
    ------
    ValueError
        If a parameter is impossible, or `root` holds something else or another world.
    """
    wanted = sorted({_check_subject(subject) for subject in subjects})
    if not (np.isfinite(snr) and snr >= 0) or not 0 < voxel_scale <= 1:
        raise ValueError(
            f"snr={snr}, voxel_scale={voxel_scale}: snr must be at least 0 and "
            "voxel_scale above 0 and at most 1"
        )
    shown = experiment.plan(n_shared, n_private, repeats, seed)
    if recorded is not None and not 1 <= recorded <= shown.n_sessions:
        raise ValueError(f"recorded={recorded}: this plan has sessions 1 to {shown.n_sessions}")
    parameters = Parameters(
        seed, float(snr), repeats, n_shared, n_private, float(voxel_scale), recorded
    )
    layout = Layout(Path(root))
    if all(_finished(layout.root, name, parameters) for name in _names(wanted)):
        return layout
    _check_root(layout.root, parameters)
    layout.root.mkdir(parents=True, exist_ok=True)
    workers = workers or min(2, os.cpu_count() or 1)
    with FileLock(layout.root / ".lock"):
        if not _finished(layout.root, "experiment", parameters):
            # New tables and an empty stimulus file: whoever was made for the old ones is not.
            for stale in (layout.root / MARKERS).glob("*.json"):
                stale.unlink()
            _install(layout.root, "experiment", parameters, lambda t: _write_experiment(t, shown))
        for subject in wanted:
            name = subject_name(subject)
            if not _finished(layout.root, name, parameters):
                cortex = Cortex(subject, seed, parameters.voxel_scale)
                _make_subject(layout, cortex, shown, parameters, workers, progress)
    if workers > 1:
        get_reusable_executor().shutdown()  # idle processes would keep their memory
    return layout


def finished(root: Path, subject: int) -> bool:
    """Say whether a subject of a miniature world is complete, whatever its parameters."""
    return (Path(root) / MARKERS / f"{subject_name(subject)}.json").is_file()


def _check_subject(subject: int) -> int:
    if subject not in SUBJECTS:
        raise ValueError(f"subject={subject}: the miniature world has subjects 1 to 4")
    return int(subject)


def _names(subjects: list[int]) -> list[str]:
    return ["experiment", *(subject_name(subject) for subject in subjects)]


def _finished(root: Path, name: str, parameters: Parameters) -> bool:
    marker = root / MARKERS / f"{name}.json"
    return marker.is_file() and json.loads(marker.read_text()) == asdict(parameters)


def _check_root(root: Path, parameters: Parameters) -> None:
    """Refuse to write over anything but a world of the same parameters (or of an older version)."""
    if not root.exists():
        return
    if not root.is_dir():
        raise ValueError(f"{root} is a file: give a folder for the miniature world")
    markers = sorted((root / MARKERS).glob("*.json"))
    ours = (root / MARKERS).is_dir()
    if not ours and any(path.name != ".lock" for path in root.iterdir()):
        raise ValueError(f"{root} holds files that are no miniature world: give an empty folder")
    for marker in markers:
        there = json.loads(marker.read_text())
        differing = [
            key
            for key, value in asdict(parameters).items()
            if key != "version" and there.get(key, value) != value
        ]
        if differing:
            key = differing[0]
            raise ValueError(
                f"{root} was made with {key}={there[key]}, not "
                f"{asdict(parameters)[key]}: give another folder or delete this one"
            )


def _install(
    root: Path, name: str, parameters: Parameters, write: Callable[[Path], list[Path]]
) -> None:
    """Write into a folder beside the target, rename file trees into place, then mark."""
    marker = root / MARKERS / f"{name}.json"
    marker.parent.mkdir(exist_ok=True)
    marker.unlink(missing_ok=True)
    for stale in root.glob(f".making_{name}_*"):
        shutil.rmtree(stale)
    temporary = Path(tempfile.mkdtemp(prefix=f".making_{name}_", dir=root))
    try:
        for made in write(temporary):
            target = root / made.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(made, target)
        ready = temporary / "marker.json"
        ready.write_text(json.dumps(asdict(parameters)))
        os.replace(ready, marker)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_experiment(folder: Path, shown: Plan) -> list[Path]:
    there = Layout(folder)
    there.expdesign().parent.mkdir(parents=True)
    experiment.write_expdesign(there.expdesign(), shown)
    experiment.write_stim_info(there.stim_info(), shown)
    annotations = there.captions("train2017").parent
    annotations.mkdir()
    experiment.write_annotations(annotations, shown)
    # An older version's pictures must not survive beside new tables.
    there.stimuli().parent.mkdir(parents=True)
    with h5py.File(there.stimuli(), "w") as file:
        side = scenes.IMAGE_SIZE
        file.create_dataset(
            "imgBrick", (shown.n_scenes, side, side, 3), np.uint8, chunks=(1, side, side, 3)
        )
    return [there.expdesign().parent, annotations, there.stimuli().parent]


def _make_subject(
    layout: Layout,
    cortex: Cortex,
    shown: Plan,
    parameters: Parameters,
    workers: int,
    progress: bool,
) -> None:
    name = subject_name(cortex.subject)
    nsd_id = np.sort(shown.images[cortex.subject - 1])
    n_sessions = parameters.recorded or shown.n_sessions

    def write(folder: Path) -> list[Path]:
        there = Layout(folder)
        for path in (
            there.ppdata(cortex.subject) / "roi",
            there.betas_folder(cortex.subject),
            there.behaviour(cortex.subject).parent,
            there.truth(cortex.subject),
        ):
            path.mkdir(parents=True)
        _see(there, layout, cortex, nsd_id, workers, progress)
        recording = Recording(folder, cortex, nsd_id, shown, parameters.snr)
        numbers = range(1, n_sessions + 1)
        jobs = (delayed(write_session)(recording, session) for session in numbers)
        betas = list(_run(jobs, n_sessions, workers, progress, f"{name}: record sessions"))
        write_subject_volumes(there, cortex, betas, recording)
        behaviour = there.behaviour(cortex.subject)
        experiment.write_behaviour(behaviour, shown, cortex.subject, n_sessions)
        return [
            there.ppdata(cortex.subject).parent,
            there.betas_folder(cortex.subject),
            there.labels(cortex.subject, "streams").parent,
            there.truth(cortex.subject),
        ]

    _install(layout.root, name, parameters, write)


def _run(jobs: Iterable, total: int, workers: int, progress: bool, text: str) -> Iterator:
    """Run jobs in processes and yield their results in order."""
    done = Parallel(n_jobs=workers, return_as="generator")(jobs)
    yield from tqdm(done, total=total, desc=text, disable=not progress)


def _see(
    there: Layout, layout: Layout, cortex: Cortex, nsd_id: np.ndarray, workers: int, progress: bool
) -> None:
    """Draw a subject's scenes, store them, and store what the cortex answers without noise."""
    _ = cortex.calibration  # computed here once, not in every process
    parts = np.array_split(nsd_id, max(1, len(nsd_id) // SCENES_PER_JOB))
    jobs = (delayed(_look)(cortex, part) for part in parts)
    images = np.empty((len(nsd_id), scenes.IMAGE_SIZE, scenes.IMAGE_SIZE, 3), np.uint8)
    answers = np.lib.format.open_memmap(
        there.root / "answers.npy", "w+", np.float16, (len(nsd_id), len(cortex.anatomy.voxels))
    )
    row = 0
    text = f"{subject_name(cortex.subject)}: draw and see scenes"
    for pictures, responses in _run(jobs, len(parts), workers, progress, text):
        images[row : row + len(pictures)] = pictures
        answers[row : row + len(pictures)] = responses
        row += len(pictures)
    answers.flush()
    _add_pictures(layout.stimuli(), there.root, nsd_id, images)


def _look(cortex: Cortex, nsd_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    described = [scenes.scene(int(i)) for i in nsd_id]
    images = np.stack([scenes.draw(one) for one in described])
    return images, cortex.responses(images, described).astype(np.float16)


def _add_pictures(path: Path, scratch: Path, nsd_id: np.ndarray, images: np.ndarray) -> None:
    """Add pictures to a copy of the stimulus file, then put the copy in its place."""
    copy = scratch / path.name
    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as file:
        brick = file["imgBrick"]
        for number, picture in zip(nsd_id, images, strict=True):
            brick[number] = picture
    os.replace(copy, path)
