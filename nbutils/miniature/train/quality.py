"""Measure the shipped networks on scenes that no network has seen; the figures of CARD.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nbutils.miniature import scenes
from nbutils.miniature.captions import captions
from nbutils.miniature.train.data import FIRST_SCENE
from nbutils.networks.loading import Networks, load

FIRST_HELD_OUT = FIRST_SCENE + 10_000_000


def peak_signal_to_noise(images: np.ndarray, truth: np.ndarray) -> float:
    """Mean over images of the peak signal-to-noise ratio, dB."""
    error = np.square(images.astype(np.float64) - truth).mean(axis=(1, 2, 3))
    return float((10 * np.log10(255**2 / error)).mean())


def measure_clip(networks: Networks, images: np.ndarray, sentences: list[str]) -> dict[str, float]:
    """How often an image finds its own caption: among all, and against one other."""
    seen = np.concatenate([networks.clip.image_embedding(b) for b in np.array_split(images, 10)])
    read = networks.clip.text_embedding(sentences).numpy()
    similar = seen @ read.T
    own = np.diag(similar)[:, None]
    return {
        f"CLIP: own caption first of {len(images)}": float(
            (similar.argmax(1) == np.arange(len(images))).mean()
        ),
        "CLIP: two-way image to caption": float((similar < own).sum() / (own.size**2 - own.size)),
    }


def measure(directory: Path, n: int = 500, n_layers: int = 12) -> dict[str, float]:
    """Measure every network of a directory on ``n`` held-out scenes.

    Parameters
    ----------
    directory : networks directory
    n : number of scenes
    n_layers : latent maps of the VDVAE that are decoded from a brain

    Returns
    -------
    dict of figure name -> value
    """
    networks = load(directory)
    drawn = [scenes.scene(FIRST_HELD_OUT + i) for i in range(n)]
    images = np.stack([scenes.draw(scene) for scene in drawn])
    sentences = [captions(scene)[0] for scene in drawn]
    few = images[:100]
    judged = networks.classifier.classify(images)
    labels = np.stack([scenes.label_vector(scene) for scene in drawn])
    present = labels[:, : len(scenes.CATEGORIES)] > 0
    backgrounds = [scenes.BACKGROUNDS.index(scene.background) for scene in drawn]
    spoken = networks.optimus.decode(networks.optimus.encode(sentences))
    vdvae = networks.vdvae
    return {
        **measure_clip(networks, images, sentences),
        "AutoKL: round trip, dB": peak_signal_to_noise(
            networks.autokl.decode(networks.autokl.encode(few)), few
        ),
        f"VDVAE: first {n_layers} maps, dB": peak_signal_to_noise(
            vdvae.decode(vdvae.latents(few, n_layers)), few
        ),
        "Optimus: sentences word for word": float(np.mean(np.equal(spoken, sentences))),
        "classifier: exact set of categories": float(
            ((judged["category"] > 0.5) == present).all(1).mean()
        ),
        "classifier: background": float((judged["background"].argmax(1) == backgrounds).mean()),
    }
