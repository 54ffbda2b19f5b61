"""The miniature experiment: who saw which scene when, in the tables that NSD uses.

Index bases are NSD's own: everything MATLAB or behavioural counts from 1, ``nsdId`` and rows of the
stimulus file from 0. The nsd_id of a scene is the scene's number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import savemat

from nbutils.miniature import captions, scenes

N_SUBJECTS = 4
TRIALS, RUNS, SLOTS = 750, 12, 75
VALIDATION_SHARE = 0.1
_BEHAVIOUR = (
    "SUBJECT SESSION RUN TRIAL 73KID 10KID TIME ISOLD ISCORRECT RT CHANGEMIND "
    "MEMORYRECENT MEMORYFIRST ISOLDCURRENT ISCORRECTCURRENT TOTAL1 TOTAL2 BUTTON "
    "MISSINGDATA"
).split()


@dataclass(frozen=True)
class Plan:
    """Which scenes are shown to whom, and in which order.

    Attributes
    ----------
    shared : (n_shared,) int64 ascending nsd_ids that everyone sees
    images : (4, n_images) int64 nsd_ids of every subject's list, the shared ones first
    order : (n_trials,) int64 position in that list at each trial, the same for all subjects
    seed, repeats : what the plan was made from
    """

    shared: np.ndarray
    images: np.ndarray
    order: np.ndarray
    seed: int
    repeats: int

    @property
    def n_sessions(self) -> int:
        """Sessions of 750 trials."""
        return len(self.order) // TRIALS

    @property
    def n_scenes(self) -> int:
        """Scenes of all subjects together."""
        return len(self.shared) + N_SUBJECTS * (self.images.shape[1] - len(self.shared))


def plan(n_shared: int = 400, n_private: int = 3600, repeats: int = 3, seed: int = 0) -> Plan:
    """Plan the experiment.

    Every image is shown `repeats` times; where that does not fill the last session, some
    private images are shown once more. About a third of the images come back within their
    first session, as in NSD.

    Raises
    ------
    ValueError
        If a number is too small for an experiment.
    """
    if repeats < 1 or n_shared < 2 or n_private < 2:
        raise ValueError(
            f"repeats={repeats}, n_shared={n_shared}, n_private={n_private}: "
            "give at least 1 repeat and 2 images of each sort"
        )
    rng = np.random.default_rng((seed, 73))
    ids = rng.permutation(n_shared + N_SUBJECTS * n_private)
    shared = np.sort(ids[:n_shared])
    private = ids[n_shared:].reshape(N_SUBJECTS, n_private)
    images = np.hstack([np.tile(shared, (N_SUBJECTS, 1)), private])
    n_images = n_shared + n_private
    n_sessions = -(-n_images * repeats // TRIALS)
    times = rng.random((n_images, repeats))
    for k in range(1, repeats):
        soon = rng.random(n_images) < 0.36
        lag = rng.exponential(0.35 / n_sessions, n_images)
        times[soon, k] = (times[:, 0] + lag)[soon]
    extra = n_sessions * TRIALS - n_images * repeats
    shown = np.concatenate(
        [
            np.repeat(np.arange(n_images), repeats),
            n_shared + np.resize(rng.permutation(n_private), extra),
        ]
    )
    order = shown[np.argsort(np.concatenate([times.ravel(), rng.random(extra)]), kind="stable")]
    return Plan(shared, images, order, seed, repeats)


def write_expdesign(path: Path, plan: Plan) -> None:
    """Write ``nsd_expdesign.mat``: MATLAB doubles, counted from 1."""
    sessions = plan.order.reshape(plan.n_sessions, TRIALS)
    showings = [
        np.unique(np.unique(row, return_counts=True)[1], return_counts=True) for row in sessions
    ]
    basic = np.zeros((3, plan.n_sessions))
    for column, (times, images) in enumerate(showings):
        few = times <= 3
        basic[times[few] - 1, column] = images[few]
    fields = {
        "masterordering": plan.order[None] + 1,
        "subjectim": plan.images + 1,
        "sharedix": plan.shared[None] + 1,
        "basiccnt": basic,
        "stimpattern": _pattern(plan.n_sessions),
    }
    savemat(
        path,
        {name: np.asarray(values, np.float64) for name, values in fields.items()},
        do_compression=True,
    )


def _pattern(n_sessions: int) -> np.ndarray:
    """Mark the slots with a picture (sessions, 12 runs, 75): runs hold 63 and 62 trials."""
    pattern = np.zeros((n_sessions, RUNS, SLOTS))
    for run in range(RUNS):
        n_trials = 63 - run % 2
        # First three and last slots are empty, and others spread evenly, as in NSD.
        pattern[:, run, 3 + np.round(np.linspace(0, SLOTS - 8, n_trials)).astype(int)] = 1
    return pattern


def run_of_trial() -> np.ndarray:
    """Return the run (1-based) of each of the 750 trials of a session."""
    return np.repeat(np.arange(RUNS) + 1, [63 - run % 2 for run in range(RUNS)])


def coco_ids(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Number the scenes as COCO would.

    Returns
    -------
    coco_id : (n_scenes,) int64, in no order; split : (n_scenes,) of str
    """
    rng = np.random.default_rng((plan.seed, 74))
    numbers = 100_139 + 7 * rng.permutation(plan.n_scenes)
    validation = rng.random(plan.n_scenes) < VALIDATION_SHARE
    return numbers, np.where(validation, "val2017", "train2017")


def write_stim_info(path: Path, plan: Plan) -> None:
    """Write ``nsd_stim_info_merged.csv`` with NSD's 41 columns, for eight subjects as there."""
    n = plan.n_scenes
    coco_id, split = coco_ids(plan)
    table = {
        "cocoId": coco_id,
        "cocoSplit": split,
        "cropBox": "(0, 0, 0, 0)",
        "loss": 0.0,
        "nsdId": np.arange(n),
        "flagged": False,
        "BOLD5000": False,
        "shared1000": np.isin(np.arange(n), plan.shared),
    }
    for subject in range(1, 9):
        table[f"subject{subject}"] = _shows(plan, subject).any(axis=1).astype(int)
    for subject in range(1, 9):
        shows = _shows(plan, subject)
        table |= {f"subject{subject}_rep{k}": shows[:, k] for k in range(3)}
    pd.DataFrame(table).to_csv(path)


def _shows(plan: Plan, subject: int) -> np.ndarray:
    """Return the 1-based trials of the first three showings, (n_scenes, 3), 0 for never."""
    shows = np.zeros((plan.n_scenes, 3), np.int64)
    if subject <= N_SUBJECTS:
        nsd_id = plan.images[subject - 1, plan.order]
        repeat = pd.Series(nsd_id).groupby(nsd_id).cumcount().to_numpy()
        kept = np.flatnonzero(repeat < 3)
        shows[nsd_id[kept], repeat[kept]] = kept + 1
    return shows


def write_behaviour(path: Path, plan: Plan, subject: int, n_sessions: int | None = None) -> None:
    """Write ``responses.tsv``: an observer who is mostly right about what is old.

    It ends with the last of `n_sessions` that took place, unlike the other tables, which list
    what was planned.
    """
    rng = np.random.default_rng((plan.seed, subject, 75))
    n = len(plan.order)
    session = np.arange(n) // TRIALS + 1
    old = pd.Series(plan.order).duplicated().to_numpy()
    current = pd.DataFrame({"image": plan.order, "session": session}).duplicated().to_numpy()
    right = rng.random(n) < 0.85
    button = np.where(right == old, 2, 1)
    columns = [
        subject,
        session,
        np.tile(run_of_trial(), plan.n_sessions),
        np.concatenate(
            [
                np.arange(1, count + 1)
                for count in np.tile(
                    np.unique(run_of_trial(), return_counts=True)[1], plan.n_sessions
                )
            ]
        ),
        plan.images[subject - 1, plan.order] + 1,
        plan.order + 1,
        session * 7 + np.round(np.arange(n) % TRIALS * 4.3 / 86400, 6),
        old.astype(int),
        right.astype(int),
        np.round(rng.gamma(9, 90, n), 1),
        0,
        *_lags(plan.order),
        current.astype(int),
        ((button == 2) == current).astype(int),
        (button == 1).astype(int),
        (button == 2).astype(int),
        button,
        0,
    ]
    table = pd.DataFrame(dict(zip(_BEHAVIOUR, columns, strict=True)))
    taken = table["SESSION"] <= (plan.n_sessions if n_sessions is None else n_sessions)
    table[taken].to_csv(path, sep="\t", index=False, na_rep="NaN")


def _lags(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many trials ago each image was seen last and first, NaN for never."""
    trial = pd.Series(np.arange(len(order)), dtype=float)
    groups = trial.groupby(order)
    recent, first = trial - groups.shift(1), trial - groups.transform("min")
    return recent.to_numpy() - 1, first.where(first > 0).to_numpy() - 1


def write_annotations(folder: Path, plan: Plan) -> None:
    """Write COCO-style captions and instances of every scene, both splits."""
    coco_id, split = coco_ids(plan)
    names = [(name, kind) for kind, members in scenes.KINDS.items() for name in members]
    number = {name: k + 1 for k, (name, _) in enumerate(names)}
    classes = [{"id": number[name], "name": name, "supercategory": kind} for name, kind in names]
    for one in ("train2017", "val2017"):
        ids = np.flatnonzero(split == one)
        shown = [(int(coco_id[i]), scenes.scene(int(i))) for i in ids]
        images = [
            {
                "id": image,
                "file_name": f"{image:012d}.png",
                "width": scenes.IMAGE_SIZE,
                "height": scenes.IMAGE_SIZE,
            }
            for image, _ in shown
        ]
        head = {"info": {"description": "drawn scenes of the miniature world"}, "images": images}
        _write_json(folder / f"captions_{one}.json", head | {"annotations": _captions(shown)})
        _write_json(
            folder / f"instances_{one}.json",
            head | {"annotations": list(_instances(shown, number)), "categories": classes},
        )


def _captions(shown: Iterable[tuple[int, scenes.Scene]]) -> list[dict]:
    rows = [(image, text) for image, one in shown for text in captions.captions(one)]
    return [{"id": k, "image_id": rows[k][0], "caption": rows[k][1]} for k in range(len(rows))]


def _instances(shown: Iterable[tuple[int, scenes.Scene]], number: dict[str, int]) -> Iterator[dict]:
    count = 0
    for image, one in shown:
        for thing in one.things:
            count += 1
            box = [round(v * scenes.IMAGE_SIZE, 2) for v in _box(thing)]
            yield {
                "id": count,
                "image_id": image,
                "category_id": number[thing.kind],
                "bbox": box,
                "area": round(box[2] * box[3], 2),
                "iscrowd": 0,
            }


def _box(thing: scenes.Thing) -> tuple[float, float, float, float]:
    left, top = max(thing.x - thing.size, 0), max(thing.y - thing.size, 0)
    right, bottom = min(thing.x + thing.size, 1), min(thing.y + thing.size, 1)
    return left, top, right - left, bottom - top


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
