"""What a text-conditioned diffusion model holds of an image: z_c and its U-Net's activations.

Noise is added to the latents z of an image and taken away again under its captions c. Kept are
the latents on the way, at stated shares of the denoising steps, and what five stages of the U-Net
then answer. One pass over the images gives all of it, stored row by row, so that a run that was
killed goes on where it was.

Our choices, since no code is public: the stages are the first and the last block of either half
of the U-Net and its bottleneck; of the two halves of guidance the activations are those under the
captions; maps are averaged to at most 4 x 4 places, and where more than `WIDTH` numbers are left, a
seeded Gaussian random projection brings them to `WIDTH` (it is fitted on nothing, and keeps the
distances between images up to a few percent).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from nbutils.artifacts import hash_file
from nbutils.decoding.rows import write_rows
from nbutils.decoding.store import Features
from nbutils.networks.sampling import Flow, add_noise, ddim, noise_for, plan_steps
from nbutils.networks.stable import stable_flow

NOISE_LEVELS = {"low": 0.2, "middle": 0.5, "high": 0.8}
"""Strength of each noise level. High is the strength at which the authors' code reconstructs
images; the other two are our choice, since the paper names the levels without numbers."""

LATENT_PROGRESS = (0, 44, 86)
"""Percent of the denoising steps after which z_c is taken (paper, figure 8); 0 is noise added."""

STAGE_PROGRESS = (20, 66, 100)
"""Percent of the denoising steps at which activations are taken (paper, figure 9)."""

STAGES = ("encoder 1", "encoder 2", "bottleneck", "decoder 1", "decoder 2")
"""Stages of the U-Net, in the order they run."""

SIDE, WIDTH = 4, 1024
"""Places along one side of an averaged map, and the most numbers kept of a stage."""


@dataclass(frozen=True)
class Painter:
    """A text-conditioned image flow, with what the analyses need of it.

    Parameters
    ----------
    unet : gives the U-Net; asked in each batch, since networks may have to take turns in memory
    flow : ``flow(unet, x, t, contexts)``, such as `nbutils.networks.stable.stable_flow`
    unconditional : (1, T, d) tokens of the empty caption
    config : schedule of the flow
    weights : hash of the U-Net's weights, so that stored rows of other weights are not taken
    device, dtype : where and in which precision latents are denoised
    split_guidance : run the two halves of guidance one after the other, for small memories
    """

    unet: Callable[[], nn.Module]
    flow: Callable[[nn.Module, Tensor, Tensor, dict], Tensor]
    unconditional: Tensor
    config: Any
    weights: str | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    split_guidance: bool = False

    def bind(self) -> Flow:
        """The flow with its U-Net, as `nbutils.networks.sampling.ddim` takes it."""
        unet = self.unet()
        return lambda x, t, contexts: self.flow(unet, x, t, contexts)


def stable_painter(networks: Any) -> Painter:
    """Make a painter of the Stable Diffusion of a networks directory.

    Parameters
    ----------
    networks : what `nbutils.networks.loading.load` returns
    """
    file = Path(networks.directory) / "stable_unet.safetensors"
    return Painter(
        lambda: networks.stable_unet, stable_flow, networks.stable_text.unconditional().cpu(),
        networks.config.stable_unet, hash_file(file) if file.is_file() else None,
        networks.device, networks.dtype, networks.plan.split_guidance,
    )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How images are denoised and what is kept.

    Parameters
    ----------
    strength : share of the steps that is run, which is how much noise is added first
    steps : denoising steps of a full run
    guidance_scale : of classifier-free guidance (5 in the authors' code)
    seed : of the noise, together with each nsd_id
    latents : percent of the steps after which the latents are kept
    stages : percent of the steps at which the U-Net's stages are kept; none to save the disk
    """

    strength: float
    steps: int = 50
    guidance_scale: float = 5.0
    seed: int = 0
    latents: tuple[int, ...] = (100,)
    stages: tuple[int, ...] = ()

    @property
    def n_steps(self) -> int:
        """Denoising steps that are run."""
        return len(plan_steps(self.steps, self.strength)[1])

    def latent_steps(self) -> dict[int, int]:
        """Percent -> number of steps done when the latents are kept."""
        return {percent: round(percent / 100 * self.n_steps) for percent in self.latents}

    def stage_steps(self) -> dict[int, int]:
        """Percent -> which step, from 1, reaches it."""
        return {p: max(1, math.ceil(p / 100 * self.n_steps - 1e-9)) for p in self.stages}


@dataclass(frozen=True)
class Recording:
    """What was kept of every image, found by name.

    Parameters
    ----------
    rows : stored numbers, all parts of an image side by side
    parts : name -> columns; ``latent 44`` is z_c after 44 % of the steps, ``bottleneck 66`` a stage
        at 66 %
    """

    rows: Features
    parts: dict[str, slice]

    def __getitem__(self, name: str) -> Features:
        """Features of one part, (n_images, k) float16 on disk."""
        if name not in self.parts:
            raise KeyError(f"{name!r} was not kept: choose from {', '.join(self.parts)}")
        return Features(self.rows.array[:, self.parts[name]], self.rows.nsd_id)


def find_stages(unet: nn.Module) -> dict[str, nn.Module]:
    """Return the five stages of a U-Net by the names of `STAGES`."""
    down, up = unet.down_blocks, unet.up_blocks
    return dict(zip(STAGES, (down[0], down[-1], unet.mid_block, up[0], up[-1]), strict=True))


def record(
    painter: Painter,
    latents: Features,
    tokens: Features,
    nsd_ids: ArrayLike,
    plan: Plan,
    path: str | Path,
    *,
    batch_size: int = 32,
    replace: bool = False,
    progress: bool = True,
) -> Recording:
    """Add noise to images, take it away under their captions, and store what is met on the way.

    Parameters
    ----------
    painter : the flow
    latents : z of every image, (n, c, h, w)
    tokens : c of every image, (n, T, d)
    nsd_ids : (n_images,) images; with the seed they decide the noise
    plan : how, and what is kept
    path : ``.npy`` file of the rows; a finished file of the same plan is read, not made again
    batch_size : images at a time
    replace : write a finished file of another plan, other images or other weights anew
    progress : show a progress bar

    Returns
    -------
    Recording

    Raises
    ------
    ValueError
        If the strength leaves no start latents, or the file holds something else.
    """
    if plan.strength >= 1:
        raise ValueError(f"strength={plan.strength}: below 1, or nothing of the image is left.")
    ids, sizes = np.asarray(nsd_ids, dtype=np.int64), {}

    def compute(rows: slice) -> NDArray[np.float32]:
        some = ids[rows]
        kept = denoise(painter, latents.take(some), tokens.take(some), some, plan)
        sizes.update({name: part.shape[1] for name, part in kept.items()})
        return np.concatenate(list(kept.values()), axis=1)

    note = {"plan": asdict(plan), "side": SIDE, "width": WIDTH, "weights": painter.weights}
    rows = write_rows(
        path, f"denoising {plan.strength}", ids, compute, note,
        batch_size=batch_size, replace=replace, progress=progress,
    )  # fmt: skip
    if not sizes:  # all of it was there; one image says where its parts lie
        compute(slice(0, 1))
    ends = np.cumsum(list(sizes.values())).tolist()
    starts = [0, *ends[:-1]]
    return Recording(rows, dict(zip(sizes, map(slice, starts, ends), strict=True)))


def record_levels(
    painter: Painter,
    latents: Features,
    tokens: Features,
    nsd_ids: ArrayLike,
    folder: str | Path,
    *,
    steps: int = 50,
    guidance_scale: float = 5.0,
    seed: int = 0,
    **options: Any,
) -> dict[str, Recording]:
    """Record every noise level; at the highest also the latents on the way and the stages.

    Parameters
    ----------
    painter, latents, tokens, nsd_ids : as in `record`
    folder : of ``<level>.npy``
    steps, guidance_scale, seed : as in `Plan`
    options : batch_size, replace and progress of `record`

    Returns
    -------
    recordings : level of `NOISE_LEVELS` -> `Recording`
    """
    recordings, highest = {}, max(NOISE_LEVELS.values())
    for level, strength in NOISE_LEVELS.items():
        # At least one step is run, also of a rehearsal with four.
        plan = Plan(max(strength, 1 / steps), steps, guidance_scale, seed)
        if strength == highest:
            plan = dataclasses.replace(plan, latents=(*LATENT_PROGRESS, 100), stages=STAGE_PROGRESS)
        path = Path(folder) / f"{level}.npy"
        recordings[level] = record(painter, latents, tokens, nsd_ids, plan, path, **options)
    return recordings


def denoise(
    painter: Painter, latents: ArrayLike, tokens: ArrayLike, nsd_ids: NDArray, plan: Plan
) -> dict[str, NDArray[np.float32]]:
    """Denoise one batch and return what the plan keeps, by name, (n, k) each.

    Parameters
    ----------
    painter, nsd_ids, plan : as in `record`
    latents : (n, c, h, w)
    tokens : (n, T, d)
    """
    there = {"device": painter.device, "dtype": painter.dtype}
    z, context, empty = (
        torch.as_tensor(values).to(**there)
        for values in (np.asarray(latents), np.asarray(tokens), painter.unconditional)
    )
    noise = noise_for(plan.seed, nsd_ids, z.shape[1:]).to(z)
    noise_at, _ = plan_steps(plan.steps, plan.strength)
    path, kept = {0: add_noise(z, noise, noise_at, painter.config)}, {}
    at = {step: percent for percent, step in plan.stage_steps().items()}

    with _watch(painter.unet() if at else None) as seen:

        def keep(step: int, t: int, x: Tensor, clean: Tensor) -> None:
            path[step + 1] = x
            if step + 1 in at:
                kept.update({f"{name} {at[step + 1]}": reduce_map(value[-len(x) :], name)
                             for name, value in seen.items()})  # fmt: skip

        ddim(
            painter.bind(), z, {"text": context}, {"text": empty}, {"text": 1.0},
            config=painter.config, noise=noise, steps=plan.steps, strength=plan.strength,
            guidance_scale=plan.guidance_scale, split_guidance=painter.split_guidance,
            callback=keep,
        )  # fmt: skip
    steps = {f"latent {percent}": path[step] for percent, step in plan.latent_steps().items()}
    return {name: _flat(x) for name, x in steps.items()} | kept


def reduce_map(values: Tensor, name: str) -> NDArray[np.float32]:
    """Average activations (n, c, h, w) over places and project them; (n, at most WIDTH).

    Parameters
    ----------
    values : of one stage
    name : of the stage; each has a projection of its own
    """
    side = [min(SIDE, size) for size in values.shape[2:]]
    flat = _flat(adaptive_avg_pool2d(values.float(), side))
    if flat.shape[1] <= WIDTH:
        return flat
    return flat @ _projection(flat.shape[1], name)


@lru_cache(maxsize=8)
def _projection(size: int, name: str) -> NDArray[np.float32]:
    rng = np.random.default_rng([size, *name.encode()])
    return rng.standard_normal((size, WIDTH), np.float32) / np.float32(math.sqrt(WIDTH))


def _flat(values: Tensor) -> NDArray[np.float32]:
    return values.detach().float().cpu().numpy().reshape(len(values), -1)


@contextmanager
def _watch(unet: nn.Module | None) -> Iterator[Mapping[str, Tensor]]:
    """Keep the last output of every stage; without a U-Net nothing is watched."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            # A block on the way down also returns what the way up will need.
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    stages = {} if unet is None else find_stages(unet)
    handles = [stage.register_forward_hook(watch(name)) for name, stage in stages.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
