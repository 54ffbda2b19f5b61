"""Compute, once, what the flows are trained on: latents and contexts of all scenes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm.auto import tqdm

from nbutils.miniature.train.clip import ClipTrainer, normalise_pixels
from nbutils.miniature.train.data import MAX_TOKENS, TrainingScenes
from nbutils.miniature.train.flows import FlowData
from nbutils.networks.optimus import Optimus

BATCH = 250


def stream(
    path: Path, rows: np.ndarray, encode: Callable[[torch.Tensor], torch.Tensor]
) -> np.ndarray:
    """Encode an array in batches into a float16 file; read it back if it is already there.

    Parameters
    ----------
    path : the `.npy` file
    rows : (n, ...) what is encoded
    encode : turns a batch of rows into (batch, ...)

    Returns
    -------
    (n, ...) float16, a read-only memory map
    """
    if not path.exists():
        temporary, out = path.with_suffix(".part.npy"), None
        for start in tqdm(range(0, len(rows), BATCH), desc=path.stem):
            batch = torch.from_numpy(np.array(rows[start : start + BATCH]))
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                encoded = encode(batch).float().numpy()
            if out is None:
                shape = (len(rows), *encoded.shape[1:])
                out = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
            out[start : start + BATCH] = encoded
        out.flush()
        os.replace(temporary, path)
    return np.load(path, mmap_mode="r")


def scales(autokl: AutoencoderKL, optimus: Optimus, data: TrainingScenes) -> dict:
    """Factors that give image latents (one number) and sentence latents (64) unit variance."""
    with torch.no_grad():
        latents = autokl.encode(normalise_pixels(torch.from_numpy(np.array(data.images[:2_000]))))
        sentences = optimus.encode_ids(torch.from_numpy(np.array(data.tokens[:2_000, 0])))[0]
    return {
        "autokl": 1 / latents.latent_dist.mean.std().item(),
        "optimus": (1 / sentences.std(0).clamp(min=0.1)).tolist(),
    }


def prepare_flows(
    data: TrainingScenes,
    clip: ClipTrainer,
    autokl: AutoencoderKL,
    optimus: Optimus,
    folder: Path,
) -> FlowData:
    """Encode all training scenes; a second call reads the files of the first.

    Writes ``scales.json`` beside the arrays: the scale of both latents belongs to the flows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "scales.json").exists():
        (folder / "scales.json").write_text(json.dumps(scales(autokl, optimus, data)))
    factor = json.loads((folder / "scales.json").read_text())
    spread = torch.tensor(factor["optimus"])

    def latents(images: torch.Tensor) -> torch.Tensor:
        return factor["autokl"] * autokl.encode(normalise_pixels(images)).latent_dist.mean

    def text(tokens: torch.Tensor) -> torch.Tensor:
        return clip.text_tokens(tokens.flatten(0, 1)).unflatten(0, (-1, 5))

    def sentences(tokens: torch.Tensor) -> torch.Tensor:
        mean = optimus.encode_ids(tokens.flatten(0, 1))[0]
        return (spread * mean).unflatten(0, (-1, 5))

    grey = torch.full((1, *data.images.shape[1:]), 127, dtype=torch.uint8)
    nothing = torch.tensor([[1, 2] + [0] * (MAX_TOKENS - 2)])
    with torch.no_grad():
        empty = {
            "image": clip.image_tokens(normalise_pixels(grey))[0],
            "text": clip.text_tokens(nothing)[0],
        }
    return FlowData(
        latents=stream(folder / "latents.npy", data.images, latents),
        image=stream(
            folder / "image.npy", data.images, lambda x: clip.image_tokens(normalise_pixels(x))
        ),
        text=stream(folder / "text.npy", data.tokens, text),
        sentences=stream(folder / "sentences.npy", data.tokens, sentences),
        empty=empty,
    )
