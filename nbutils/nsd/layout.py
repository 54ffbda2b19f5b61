"""Where the Natural Scenes Dataset keeps its files below one root folder.

The keys are those of the public bucket ``natural-scenes-dataset`` (NSD Data Manual,
"How to get the data"), so a folder synchronised from there is read as it is. COCO's
``annotations`` folder, as its zip file unpacks, lies beside ``nsddata``.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from pathlib import Path

SUBJECTS = tuple(range(1, 9))
HEMISPHERES = ("lh", "rh")
FORMATS = ("nii.gz", "hdf5", "masked")
"""Formats of a session's betas: NSD's two, and ours with the voxels of a mask only."""
ORIGINS = ("shared", "stimuli", "coco")
"""Where single images come from: NSD's own PNG files, its stimulus file, or COCO's photographs
cropped again, which are near to what was shown but not identical."""
_SESSIONS = {
    "nii.gz": "betas_session??.nii.gz",
    "hdf5": "betas_session??.hdf5",
    "masked": "masked/betas_session??.npy",
}
SPLITS = ("train2017", "val2017")


def require(path: Path, what: str, remedy: str) -> Path:
    """Return `path` if the file exists.

    Raises
    ------
    FileNotFoundError
        Names what is missing, where it was expected, and what to do.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{what} is not at {path}: {remedy}")
    return path


@dataclass(frozen=True)
class Layout:
    """Paths of one copy of the Natural Scenes Dataset.

    Attributes
    ----------
    root : folder that holds ``nsddata``, ``nsddata_betas`` and ``nsddata_stimuli``
    space : voxel grid, ``func1pt8mm`` for all published decoders used here
    preparation : version of the betas
    """

    root: Path
    space: str = "func1pt8mm"
    preparation: str = "betas_fithrf_GLMdenoise_RR"

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))

    def expdesign(self) -> Path:
        """Return the MATLAB file that says which image every trial showed."""
        return self.root / "nsddata/experiments/nsd/nsd_expdesign.mat"

    def stim_info(self) -> Path:
        """Return the table of all images (COCO number, split, crop, who saw it when)."""
        return self.root / "nsddata/experiments/nsd/nsd_stim_info_merged.csv"

    def stimuli(self) -> Path:
        """Return the HDF5 file of all images."""
        return self.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"

    def image(self, nsd_id: int, origin: str) -> Path:
        """Return the PNG file of one image (0-based nsd_id) that came from one of `ORIGINS`."""
        folder = self.stimuli().parent / "images" / _known(origin, ORIGINS, "origin")
        return folder / f"{nsd_id // 1000:02d}" / f"nsd_id{nsd_id:05d}.png"

    def captions(self, split: str) -> Path:
        """Return COCO's caption file of one split."""
        return self.root / f"annotations/captions_{_known(split, SPLITS, 'split')}.json"

    def instances(self, split: str) -> Path:
        """Return COCO's object file (boxes and categories) of one split."""
        return self.root / f"annotations/instances_{_known(split, SPLITS, 'split')}.json"

    def ppdata(self, subject: int) -> Path:
        """Return the subject's folder of volumes in this space."""
        return self.root / f"nsddata/ppdata/{subject_name(subject)}/{self.space}"

    def volume(self, subject: int, name: str) -> Path:
        """Return one volume, such as ``brainmask``, ``mean`` or ``T1_to_func1pt8mm``."""
        return self.ppdata(subject) / f"{name}.nii.gz"

    def behaviour(self, subject: int) -> Path:
        """Return the subject's table of button presses, one row per trial."""
        return self.root / f"nsddata/ppdata/{subject_name(subject)}/behav/responses.tsv"

    def roi(self, subject: int, atlas: str, hemisphere: str | None = None) -> Path:
        """Return the label volume of one atlas, of both hemispheres or of ``lh`` or ``rh``."""
        prefix = "" if hemisphere is None else _known(hemisphere, HEMISPHERES, "hemisphere") + "."
        return self.ppdata(subject) / f"roi/{prefix}{atlas}.nii.gz"

    def labels(self, subject: int, atlas: str) -> Path:
        """Return the label table of one atlas, where the subject has none of its own fsaverage's
        or, for the atlases drawn in the volume (MTL, thalamus), the one among the templates.
        """
        folder = self.root / "nsddata/freesurfer"
        own = folder / subject_name(subject) / f"label/{atlas}.mgz.ctab"
        others = (folder / f"fsaverage/label/{atlas}.mgz.ctab", self.templates() / f"{atlas}.ctab")
        return next((path for path in (own, *others) if path.is_file()), own)

    def templates(self) -> Path:
        """Return the folder of what all subjects share, such as label tables of volume atlases."""
        return self.root / "nsddata/templates"

    def betas_folder(self, subject: int) -> Path:
        """Return the folder of the subject's betas."""
        name = subject_name(subject)
        return self.root / f"nsddata_betas/ppdata/{name}/{self.space}/{self.preparation}"

    def betas(self, subject: int, session: int, file_format: str = "nii.gz") -> Path:
        """Return the betas file of one session (1-based)."""
        suffix, number = _known(file_format, FORMATS, "file_format"), _whole(session, "session")
        if suffix == "masked":
            return self.betas_folder(subject) / f"masked/betas_session{number:02d}.npy"
        return self.betas_folder(subject) / f"betas_session{number:02d}.{suffix}"

    def masked_voxels(self, subject: int) -> Path:
        """Return the flat C-order indices of the voxels that the masked betas hold."""
        return self.betas_folder(subject) / "masked/voxels.npy"

    def key(self, path: Path) -> str:
        """Return the key in the public bucket of a file below the root."""
        return Path(path).relative_to(self.root).as_posix()

    def ncsnr(self, subject: int) -> Path:
        """Return the noise ceiling signal-to-noise ratio volume."""
        return self.betas_folder(subject) / "ncsnr.nii.gz"

    def truth(self, subject: int) -> Path:
        """Return the folder of what only a simulated brain can know; absent for people."""
        return self.root / f"truth/{subject_name(subject)}"

    def sessions(self, subject: int, file_format: str | None = None) -> list[int]:
        """List the sessions (1-based, ascending) whose betas are on disk.

        Parameters
        ----------
        subject : int, 1 to 8
        file_format : one of `FORMATS`, or None for any

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        wanted = FORMATS if file_format is None else (_known(file_format, FORMATS, "file_format"),)
        folder = self.betas_folder(subject)
        found = sorted(
            {
                int(path.name[len("betas_session") :].split(".")[0])
                for suffix in wanted
                for path in folder.glob(_SESSIONS[suffix])
            }
        )
        if not found:
            raise FileNotFoundError(
                f"no betas_session file of subject {subject} in {folder}: "
                f"download or make the data of this subject, or check the data root {self.root}"
            )
        return found


def subject_name(subject: int) -> str:
    """Return ``subj01`` for subject 1.

    Raises
    ------
    ValueError
        If there is no such subject.
    """
    number = _whole(subject, "subject")
    if number not in SUBJECTS:
        raise ValueError(f"subject={number}: NSD has subjects 1 to 8")
    return f"subj{number:02d}"


def _whole(value: int, name: str) -> int:
    """Return a whole number of at least 1; 1.0, True and "1" are mistakes upstream."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: give a whole number counted from 1")
    return number


def _known(value: str, choices: tuple[str, ...], name: str) -> str:
    if value not in choices:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(choices)}")
    return value
