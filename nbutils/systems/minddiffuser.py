"""MindDiffuser: Stable Diffusion from decoded z and c, then controlled by decoded CLIP layers.

Stage 1 paints from a decoded latent z and decoded text tokens c. Stage 2 (`minddiffuser_control`)
changes both until the image agrees with decoded lower layers of a CLIP image tower.
Source: Lu et al. 2023 (arXiv 2303.14139); ReedOnePeck/MindDiffuser.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nbutils.decoding.store import Features
from nbutils.decoding.voxels import SelectedVoxels
from nbutils.networks.batches import run_batches
from nbutils.networks.memory import MemoryPlan
from nbutils.networks.stable import stable_flow
from nbutils.systems.generation import decode_images, start_noise, take_inputs
from nbutils.systems.minddiffuser_control import Steered, Target, Watch, steer
from nbutils.systems.minddiffuser_painting import Painter, run_steps
from nbutils.systems.minddiffuser_readings import Reading
from nbutils.systems.settings_minddiffuser import MindDiffuserSettings

FEATURES = ("stable_latent", "stable_text", "control", "control_embedding")
INPUTS, TARGETS = FEATURES[:2], FEATURES[2:]

Float = NDArray[np.float32]


def decode(
    ridge: SelectedVoxels,
    features: Mapping[str, Features],
    responses: ArrayLike,
    settings: MindDiffuserSettings,
    reading: Reading,
    *,
    progress: bool = True,
) -> dict[str, Float]:
    """Predict all that MindDiffuser needs, each number of z and c from voxels of its own.

    Parameters
    ----------
    ridge : on the training responses
    features : `FEATURES` of the training images
    responses : (n, n_voxels), z-scored like the training responses
    settings : number of voxels, penalty, number of text tokens
    reading : what to predict of the control layers, from `find_reading`
    progress : show a progress bar for each feature

    Returns
    -------
    predicted : "stable_latent" (n, c, h, w); "stable_text" (n, tokens, d), whose first token is
        that of the training images, a constant; "control" (n, K), the numbers of `reading`;
        "control_embedding" (n, p)
    """

    def predict(name: str, array: NDArray) -> Float:
        count = settings.count_voxels(name, ridge.n_images)
        stored = Features(array, features[name].nsd_id)
        return ridge.predict(
            responses, stored, count, settings.alpha, progress=progress, label=name
        )

    text = features["stable_text"].array
    start = np.broadcast_to(text[0, :1], (len(responses), 1, text.shape[2]))
    words = predict("stable_text", text[:, 1 : settings.tokens])
    return {
        "stable_latent": predict("stable_latent", features["stable_latent"].array),
        "stable_text": np.concatenate([start.astype(np.float32), words], axis=1),
        "control": reading.decode(responses, progress=progress),
        "control_embedding": predict("control_embedding", features["control_embedding"].array),
    }


def paint_first(
    networks: Any,
    predicted: Mapping[str, ArrayLike],
    settings: MindDiffuserSettings,
    nsd_ids: ArrayLike,
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> NDArray[np.uint8]:
    """Stage 1: paint from decoded z and c, without control.

    Parameters
    ----------
    networks : `nbutils.networks.loading.Networks` with Stable Diffusion
    predicted : "stable_latent" (n, c, h, w) and "stable_text" (n, tokens, d)
    settings : see `MindDiffuserSettings`
    nsd_ids : (n,) images of the rows; with the seed they decide the noise
    batch_size : images at a time, at most; changes nothing but speed and memory
    progress : show a progress bar

    Returns
    -------
    images : (n, H, W, 3) uint8

    Raises
    ------
    ValueError
        If features are missing or do not match the images.
    """
    features, ids = take_inputs(predicted, INPUTS, INPUTS, nsd_ids)
    latents, tokens = (features[name] for name in INPUTS)
    nothing = _find_nothing(networks, tokens.shape[1])
    noise = start_noise(settings, ids, latents.shape[1:])

    @torch.no_grad()
    def run(rows: slice, plan: MemoryPlan) -> Tensor:
        here = (values[rows].to(networks.device) for values in (latents, tokens, noise))
        flow, config = partial(stable_flow, networks.stable_unet), networks.config.stable_unet
        return run_steps(flow, config, nothing, *here, settings).cpu()

    done = run_batches(networks, len(ids), batch_size, run, name="stage 1", progress=progress)
    return decode_images(networks, torch.cat(done), batch_size, network="stable_autokl")


def reconstruct(
    networks: Any,
    predicted: Mapping[str, ArrayLike],
    settings: MindDiffuserSettings,
    nsd_ids: ArrayLike,
    reading: Reading,
    *,
    batch_size: int = 8,
    frame_every: int = 0,
    progress: bool = True,
    watch: Watch | None = None,
) -> Steered:
    """Stage 1 and 2: paint from decoded z and c, then change both under control.

    Parameters
    ----------
    networks : `nbutils.networks.loading.Networks` with Stable Diffusion and a control network
    predicted : `FEATURES`, as `decode` returns them
    settings : see `MindDiffuserSettings`
    nsd_ids : (n,) images of the rows; with the seed they decide the noise
    reading : what predicted["control"] says of the control layers
    batch_size : images at a time, at most; with the published noise it changes the noise
    frame_every : keep the images of every so many iterations (0: of none)
    progress : show progress bars
    watch : ``watch(iteration, images, losses)`` after each of those iterations

    Returns
    -------
    Steered : images, losses, frames

    Raises
    ------
    ValueError
        If features are missing or do not match the images.
    MemoryError
        If the memory plan cannot keep the three networks of stage 2 together.
    """
    features, ids = take_inputs(predicted, FEATURES, FEATURES, nsd_ids)
    if features["control"].shape[1:] != (sum(reading.sizes),):
        raise ValueError(
            f"control has shape {tuple(features['control'].shape)}, but {sum(reading.sizes)} "
            "numbers of each image are read; decode with the same reading."
        )
    nothing = _find_nothing(networks, features["stable_text"].shape[1])

    def run(rows: slice, plan: MemoryPlan) -> Steered:
        painter = find_painter(networks, nothing)
        aims = (features[name][rows] for name in TARGETS)
        target = Target.of(reading, *aims, settings, painter.device)
        return steer(
            painter, *(features[name][rows] for name in INPUTS), target, settings, ids[rows],
            frame_every=frame_every, progress=progress, watch=watch,
        )  # fmt: skip

    return Steered.join(run_batches(networks, len(ids), batch_size, run, name="images"))


def find_painter(networks: Any, nothing: Tensor) -> Painter:
    """Put Stable Diffusion and the control network together.

    Parameters
    ----------
    networks : see `reconstruct`
    nothing : (1, T, d) tokens of the empty caption

    Raises
    ------
    MemoryError
        If the memory plan does not keep U-Net, decoder and control network together.
    """
    autokl, control, unet = networks.stable_autokl, networks.control, networks.stable_unet
    if any(p.is_meta for net in (unet, autokl, control) for p in net.parameters()):
        raise MemoryError(
            "stage 2 runs back through U-Net, decoder and control network, which this memory "
            "plan does not keep together; take a larger one (memory='8GB'), or paint stage 1 only"
        )
    return Painter(
        partial(stable_flow, unet),
        networks.config.stable_unet,
        autokl.decode_float,
        control.layers,
        nothing,
        torch.device(networks.device),
    )


def _find_nothing(networks: Any, tokens: int) -> Tensor:
    """Tokens of the empty caption, cut to as many as the captions have."""
    empty = networks.attempt(lambda plan: networks.stable_text.unconditional().float().cpu())
    return empty[:, :tokens]
