"""Training scenes of the miniature networks: drawn once, cached, never stimuli.

Scene numbers start at ``FIRST_SCENE``, far above every ``nsd_id`` of the miniature
world, so that no network has seen an image or a caption that a subject has seen.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from nbutils.miniature import scenes
from nbutils.miniature.captions import VOCABULARY, captions

FIRST_SCENE = 1_000_000
N_TRAIN, N_HELD_OUT = 60_000, 2_000
SPECIALS = ("<PAD>", "<BOS>", "<EOS>", "[UNK]")
WORDS = (*SPECIALS, *VOCABULARY)
MAX_TOKENS = 16


@dataclass(frozen=True)
class TrainingScenes:
    """Drawn scenes with their captions and labels.

    Attributes
    ----------
    images : (n, 64, 64, 3) uint8
    tokens : (n, 5, 16) int64 word ids, ``<BOS> words <EOS> <PAD>…``
    labels : (n, n_labels) float32 multi-hot over ``scenes.LABELS``
    place : (n, 3) float32, x, y and size of the first thing as fractions of the frame
    """

    images: np.ndarray
    tokens: np.ndarray
    labels: np.ndarray
    place: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def word_ids(sentence: str, length: int = MAX_TOKENS) -> list[int]:
    """Number the words of one sentence, with ``<BOS>``, ``<EOS>`` and padding."""
    ids = [1, *(WORDS.index(word) for word in sentence.split()), 2]
    return ids + [0] * (length - len(ids))


def _describe(index: int) -> tuple[list[list[int]], np.ndarray, list[float]]:
    scene = scenes.scene(index)
    first = scene.things[0]
    ids = [word_ids(sentence) for sentence in captions(scene)]
    return ids, scenes.label_vector(scene), [first.x, first.y, first.size]


def training_scenes(cache: Path, n: int = N_TRAIN, first: int = FIRST_SCENE) -> TrainingScenes:
    """Draw (or read back) ``n`` training scenes starting at scene ``first``.

    Parameters
    ----------
    cache : directory for the drawn arrays
    n : number of scenes
    first : number of the first scene

    Returns
    -------
    TrainingScenes, arrays opened as read-only memory maps
    """
    folder = Path(cache) / f"scenes_{first}_{n}"
    if not (folder / "done.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows = [_describe(i) for i in tqdm(range(first, first + n), desc="captions")]
        for name, column, dtype in (("tokens", 0, np.int64), ("labels", 1, np.float32)):
            np.save(folder / f"{name}.npy", np.asarray([row[column] for row in rows], dtype))
        np.save(folder / "place.npy", np.asarray([row[2] for row in rows], np.float32))
        images = scenes.draw_many(range(first, first + n), workers=os.cpu_count() or 1)
        np.save(folder / "images.npy", images)
        (folder / "done.json").write_text(json.dumps({"n": n, "first": first}))
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in ("images", "tokens", "labels", "place")
    }
    return TrainingScenes(**arrays)


def held_out_scenes(cache: Path) -> TrainingScenes:
    """Scenes that no network is trained on, for the quality figures of the model card."""
    return training_scenes(cache, N_HELD_OUT, FIRST_SCENE + 10_000_000)
