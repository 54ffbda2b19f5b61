"""How large the stand-in is: the published sizes of NSD's eight subjects, and smaller ones.

Sources: the NSD Data Manual (grids, sessions, labels), Allen et al. (2022), and counts that others
printed from the real files. Counts of subject 1 are complete; for the others only nsdgeneral, V1,
V2 and hV4 are published, and everything else is subject 1's scaled by the size of nsdgeneral.
"""

from __future__ import annotations

from dataclasses import dataclass

from nbutils.world import WORLDS

SUBJECTS = tuple(f"subj{number:02d}" for number in range(1, 9))
SESSIONS = dict(zip(SUBJECTS, WORLDS["nsd"].sessions, strict=True))
GRIDS = {
    "subj01": (81, 104, 83),
    "subj02": (82, 106, 84),
    "subj03": (81, 106, 82),
    "subj04": (85, 99, 80),
    "subj05": (79, 97, 78),
    "subj06": (85, 113, 83),
    "subj07": (78, 95, 81),
    "subj08": (80, 103, 78),
}
NSDGENERAL = dict(
    zip(SUBJECTS, (15724, 14278, 15226, 13153, 13039, 17907, 12682, 14386), strict=True)
)
NCSNR = dict(zip(SUBJECTS, (0.361, 0.361, 0.324, 0.296, 0.415, 0.343, 0.281, 0.226), strict=True))
"""Median over nsdgeneral of the volume in 1.8 mm."""
V1_V2_HV4 = {
    "subj01": (1350, 1433, 687),
    "subj02": (1102, 1075, 483),
    "subj03": (1254, 1141, 426),
    "subj04": (877, 863, 475),
    "subj05": (1113, 1081, 542),
    "subj06": (1127, 1180, 477),
    "subj07": (1142, 986, 397),
    "subj08": (1074, 1033, 495),
}
CEILINGS = {
    "subj01": (48.0, 40.2, 27.4, 10.6),
    "subj02": (49.1, 31.0, 42.1, 15.1),
    "subj03": (38.7, 32.0, 26.1, 10.3),
    "subj04": (33.7, 31.7, 21.2, 10.4),
    "subj05": (40.9, 36.1, 30.3, 12.6),
    "subj06": (38.8, 32.0, 23.8, 8.4),
    "subj07": (25.5, 25.5, 20.5, 8.9),
    "subj08": (21.5, 20.1, 19.4, 5.0),
}
"""Median noise ceiling of three trials in V1, V2, hV4 and IT, percent."""
CORTEX_SHARE = 107_104 / 699_192
BRAIN_SHARE = 0.47
_SUBJECT_1: dict[str, dict[str, int]] = {
    "prf-visualrois": dict(V1v=594, V1d=756, V2v=834, V2d=599, V3v=646, V3d=541, hV4=687),
    "floc-faces": {"OFA": 355, "FFA-1": 484, "FFA-2": 310, "mTL-faces": 0, "aTL-faces": 0},
    "floc-bodies": {"EBA": 2971, "FBA-1": 0, "FBA-2": 430, "mTL-bodies": 0},
    "floc-places": {"OPA": 1611, "PPA": 1033, "RSC": 566},
    "floc-words": {"OWFA": 464, "VWFA-1": 773, "VWFA-2": 505, "mfs-words": 165, "mTL-words": 0},
    "streams": {
        "early": 5917,
        "midventral": 986,
        "midlateral": 834,
        "midparietal": 950,
        "ventral": 7604,
        "lateral": 7799,
        "parietal": 3548,
    },
}


@dataclass(frozen=True)
class Stage:
    """How many images had been shown how often after some sessions.

    Attributes
    ----------
    session : sessions done
    shared, private : (seen three times, twice, once) images of the common set, and of a
        subject's own
    """

    session: int
    shared: tuple[int, int, int]
    private: tuple[int, int, int]


STAGES = (
    Stage(30, (515, 251, 141), (4978, 2054, 1270)),
    Stage(32, (614, 213, 103), (5594, 1960, 927)),
    Stage(37, (839, 110, 33), (7559, 1003, 297)),
    Stage(40, (1000, 0, 0), (9000, 0, 0)),
)
"""NSD's own experiment. Shared counts and the number of private images seen are published; how
these divide into three, two and one showings follows from 750 trials a session, up to a choice."""


@dataclass(frozen=True)
class Size:
    """The size of a stand-in; the defaults are NSD's.

    Attributes
    ----------
    scale : share of the voxels, for tests
    image_side : pixels of a stimulus
    stages : the experiment; the last stage shows every image three times
    """

    scale: float = 1.0
    image_side: int = 425
    stages: tuple[Stage, ...] = STAGES

    def __post_init__(self) -> None:
        before = 0
        for stage in self.stages:
            shows = [3 * three + 2 * two + one for three, two, one in (stage.shared, stage.private)]
            if sum(shows) != 750 * stage.session or stage.session <= before:
                raise ValueError(
                    f"stages: {sum(shows)} showings do not fill {stage.session} sessions of 750 "
                    "trials: give every stage the showings that its sessions hold"
                )
            before = stage.session
        if any(any(counts[1:]) for counts in (self.stages[-1].shared, self.stages[-1].private)):
            raise ValueError("stages: the last one must show every image three times")
        if not 0 < self.scale <= 1 or self.image_side < 1:
            raise ValueError(
                f"scale={self.scale}, image_side={self.image_side}: give a scale above 0 and at "
                "most 1, and at least one pixel"
            )

    @property
    def n_sessions(self) -> int:
        """Sessions of the whole experiment."""
        return self.stages[-1].session

    @property
    def n_shared(self) -> int:
        """Images that everyone is to see."""
        return self.stages[-1].shared[0]

    @property
    def n_private(self) -> int:
        """Images that one subject alone is to see."""
        return self.stages[-1].private[0]

    @property
    def n_images(self) -> int:
        """Images of all eight subjects together."""
        return self.n_shared + len(SUBJECTS) * self.n_private

    def recorded(self, like: str) -> int:
        """Return how many sessions the subject took part in."""
        return min(SESSIONS[like], self.n_sessions)

    def grid(self, like: str) -> tuple[int, int, int]:
        """Return the subject's grid (n_x, n_y, n_z)."""
        return tuple(max(8, round(n * self.scale ** (1 / 3))) for n in GRIDS[like])

    def nsdgeneral(self, like: str) -> int:
        """Return the number of voxels of the nsdgeneral mask."""
        return round(NSDGENERAL[like] * self.scale)

    def counts(self, like: str, atlas: str) -> dict[str, int]:
        """Return the number of voxels of every label of one atlas, in label order."""
        full = NSDGENERAL[like] / NSDGENERAL["subj01"]
        if atlas == "prf-visualrois":
            numbers = _early_counts(like, full)
        else:
            numbers = {name: n * full for name, n in _SUBJECT_1[atlas].items()}
        return {name: round(round(n) * self.scale) for name, n in numbers.items()}


def _early_counts(like: str, full: float) -> dict[str, float]:
    """Divide V1 and V2 into their halves as in subject 1."""
    first = _SUBJECT_1["prf-visualrois"]
    v1, v2, hv4 = V1_V2_HV4[like]
    ventral1 = round(v1 * first["V1v"] / (first["V1v"] + first["V1d"]))
    ventral2 = round(v2 * first["V2v"] / (first["V2v"] + first["V2d"]))
    return {
        "V1v": ventral1,
        "V1d": v1 - ventral1,
        "V2v": ventral2,
        "V2d": v2 - ventral2,
        "V3v": first["V3v"] * full,
        "V3d": first["V3d"] * full,
        "hV4": hv4,
    }
