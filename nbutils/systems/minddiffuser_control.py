"""Stage 2 of MindDiffuser: pull an image towards decoded control features, through the diffusion.

Start latent z and text tokens c are changed by gradient descent so that the image that is painted
from them looks, to the lower layers of a control network, as the brain says. The gradient runs
back from these layers through the decoder and through every denoising step.

Source: Lu et al. 2023 (MindDiffuser), section 3.3; ReedOnePeck/MindDiffuser, `Image
reconstruction/Reconstruction.py` (loss `MSE_CLIP_mask`, optimisation loop).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from nbutils.networks.control import EMBEDDING
from nbutils.systems.generation import start_noise
from nbutils.systems.minddiffuser_painting import Painter, paint
from nbutils.systems.minddiffuser_readings import Read, Reading
from nbutils.systems.settings_minddiffuser import MindDiffuserSettings

Watch = Callable[[int, NDArray[np.uint8], NDArray[np.float64]], None]
"""watch(iteration, images, losses), called with the images of a batch."""


@dataclass(frozen=True)
class Target:
    """What was decoded of the control layers of some images, and how far an image is from it.

    Parameters
    ----------
    read : takes the numbers that are compared out of the layers of pictures
    sizes, out_of : (layers,) how many they are, and what their squared errors are divided by
    aims : (n, K) their decoded values
    embedding : (n, p) decoded embedding
    pulled : (K,) bool, numbers that enter the gradient
    held : (K,) bool, numbers that only the stopping rule sees
    weights : (n, layers) of each layer, see `weigh`
    embedding_weight : lambda
    """

    read: Read
    sizes: list[int]
    out_of: list[int]
    aims: Tensor
    embedding: Tensor
    pulled: Tensor
    held: Tensor
    weights: Tensor
    embedding_weight: float

    @classmethod
    def of(
        cls,
        reading: Reading,
        aims: Tensor,
        embedding: Tensor,
        settings: MindDiffuserSettings,
        device: torch.device,
    ) -> Target:
        """Prepare decoded features.

        Parameters
        ----------
        reading : which numbers of the control layers
        aims : (n, K) their decoded values
        embedding : (n, p)
        settings : share that is held out, weights
        device : where the images will be
        """
        held = hold_out(reading.sizes, settings.held_out, settings.seed)
        factors = aims.new_tensor(settings.weigh_layers(len(reading.sizes)))
        return cls(
            reading.reader(device),
            list(reading.sizes),
            list(reading.out_of),
            aims.to(device),
            embedding.to(device),
            (~held).to(device),
            held.to(device),
            weigh((aims * ~held).split(list(reading.sizes), dim=1), factors).to(device),
            settings.embedding_weight,
        )

    def __getitem__(self, rows: Tensor) -> Target:
        """Take some images."""
        return replace(
            self,
            aims=self.aims[rows],
            embedding=self.embedding[rows],
            weights=self.weights[rows],
        )

    def compare(self, found: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Measure how far each image is from its target.

        Parameters
        ----------
        found : what `ControlEncoder.layers` returns for the images

        Returns
        -------
        loss : (n,) the published loss: the layers' mean squared errors times weight and 1 -
            lambda, plus .1 lambda times 1 minus the cosine of the embeddings. For entries the mean
            is over all numbers of a layer, those that are no target counting as zero
        held : (n,) the same weighted squared error of the numbers that were held out, over those
            alone, layers of which nothing was held out counting as zero; NaN if nothing was
        """
        layers = torch.stack([v for name, v in found.items() if name != EMBEDDING], dim=1)
        error = (self.read(layers.to(self.aims)) - self.aims).square()
        each = self._add_up(error * self.pulled) / error.new_tensor(self.out_of)
        angle = torch.cosine_similarity(found[EMBEDDING].to(self.aims), self.embedding)
        share = self.embedding_weight
        loss = (1 - share) * (each * self.weights).sum(dim=1) + 0.1 * share * (1 - angle)
        count = self._add_up(self.held[None].to(error))
        apart = self._add_up(error * self.held) / count.clamp(min=1)
        held = (apart * self.weights).sum(dim=1).detach()
        return loss, held if count.any() else held * torch.nan

    def _add_up(self, values: Tensor) -> Tensor:
        """Sum of each layer's numbers, (n, K) -> (n, layers)."""
        parts = values.split(self.sizes, dim=1)
        return torch.stack([part.sum(dim=1) for part in parts], dim=1)


def hold_out(sizes: Sequence[int], share: float, seed: int) -> Tensor:
    """Draw a share of each layer's numbers.

    Parameters
    ----------
    sizes : (layers,) numbers of each layer
    share : above 0, at least one number of each layer is drawn, and at least one is not; none of a
        layer that has one number only
    seed : of the draw

    Returns
    -------
    held : (sum of sizes,) bool
    """
    draw, parts = torch.Generator().manual_seed(seed), []
    for size in sizes:
        count = min(max(1, round(share * size)), size - 1) if share else 0
        parts.append(torch.randperm(size, generator=draw) < count)
    return torch.cat(parts)


def weigh(aims: Sequence[Tensor], factors: Tensor) -> Tensor:
    """Weights of the layers, as published: inverse norms that add up to one, times a factor each.

    Parameters
    ----------
    aims : for each layer (n, K) targets, zero where there is none
    factors : (layers,)

    Returns
    -------
    weights : (n, layers)
    """
    inverse = torch.stack([1 / one.norm(dim=1) for one in aims], dim=1)
    return inverse / inverse.sum(dim=1, keepdim=True) * factors


@dataclass(frozen=True)
class Steered:
    """What stage 2 made of some images.

    Parameters
    ----------
    images : (n, H, W, 3) uint8, of the chosen iteration
    losses, held_out : (iterations + 1, n); before any change in row 0; NaN where an image had
        stopped, `held_out` also where nothing was held out
    chosen : (n,) iteration that each image is of
    frames : (n_frames, n, H, W, 3) uint8 on the way, those of a stopped image as it stopped
    at : (n_frames,) iterations of the frames
    """

    images: NDArray[np.uint8]
    losses: NDArray[np.float64]
    held_out: NDArray[np.float64]
    chosen: NDArray[np.int64]
    frames: NDArray[np.uint8]
    at: NDArray[np.int64]

    @classmethod
    def join(cls, parts: Sequence[Steered]) -> Steered:
        """Put batches together; frames of a batch that stopped early are repeated."""
        at = max((part.at for part in parts), key=len)
        frames = [_lengthen(part.frames, len(at)) for part in parts]
        return cls(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.losses for part in parts], axis=1),
            np.concatenate([part.held_out for part in parts], axis=1),
            np.concatenate([part.chosen for part in parts]),
            np.concatenate(frames, axis=1),
            at,
        )


def steer(
    painter: Painter,
    latents: Tensor,
    tokens: Tensor,
    target: Target,
    settings: MindDiffuserSettings,
    nsd_ids: NDArray[np.int64],
    *,
    frame_every: int = 0,
    progress: bool = True,
    watch: Watch | None = None,
) -> Steered:
    """Change z and c of a batch until the images agree with the decoded control features.

    Images of a batch do not influence each other: their losses are added up, and Adam treats every
    number by itself.

    Parameters
    ----------
    painter : the networks
    latents, tokens : (n, c, h, w) and (n, T, d), decoded z and c
    target : decoded control features of the same images
    settings : see `MindDiffuserSettings`
    nsd_ids : (n,) images; with the seed they decide the noise
    frame_every : keep the images of every so many iterations (0: of none)
    progress : show a progress bar over the iterations
    watch : called after each of those iterations

    Returns
    -------
    Steered
    """
    walk = _Walk(painter, latents, tokens, target, settings, nsd_ids)
    bar = tqdm(total=settings.iterations, desc="stage 2", disable=not progress, unit="iteration")
    with bar:
        for iteration in range(settings.iterations + 1):
            last = iteration == settings.iterations
            walk.look(iteration, change=not last)
            if frame_every and (iteration % frame_every == 0 or last):
                walk.keep_frame(iteration)
                if watch is not None:
                    watch(iteration, walk.frames[-1], walk.losses[iteration])
            if last or not len(walk.rows):
                break
            bar.update()
            bar.set_postfix(loss=f"{np.nanmean(walk.losses[iteration]):.4f}", images=len(walk.rows))
    return walk.finish()


class _Walk:
    """The state of stage 2 of one batch."""

    def __init__(
        self,
        painter: Painter,
        latents: Tensor,
        tokens: Tensor,
        target: Target,
        settings: MindDiffuserSettings,
        nsd_ids: NDArray[np.int64],
    ) -> None:
        self.painter, self.target, self.settings = painter, target, settings
        place = {"device": painter.device, "dtype": torch.float32}
        values = {"latent": latents, "text": tokens}
        self.values = {name: v.detach().clone().to(**place) for name, v in values.items()}
        changed = [
            {"params": [self.values[name].requires_grad_()], "lr": settings.find_rate(name)}
            for name in settings.optimise
        ]
        self.adam = torch.optim.Adam(changed)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.adam, settings.decay)
        self.noise = start_noise(settings, nsd_ids, latents.shape[1:]).to(**place)
        self.drawn = torch.Generator().manual_seed(settings.seed)
        shape = (settings.iterations + 1, len(latents))
        self.losses, self.held_out = np.full(shape, np.nan), np.full(shape, np.nan)
        self.best = np.full(len(latents), np.inf)
        self.chosen = np.zeros(len(latents), np.int64)
        self.rows = np.arange(len(latents))
        self.images: NDArray[np.uint8] | None = None
        self.frames: list[NDArray[np.uint8]] = []
        self.at: list[int] = []

    def look(self, iteration: int, change: bool) -> None:
        """Paint, compare, keep what is best and, if wanted, take one step of the optimiser."""
        rows = torch.from_numpy(self.rows)
        with torch.set_grad_enabled(change):
            pixels = paint(
                self.painter, self.values["latent"][rows], self.values["text"][rows],
                self._noise(iteration)[rows], self.settings,
            )  # fmt: skip
            found = self.painter.look(pixels)
            loss, held = self.target[rows].compare(found)
        if change:
            self._step(loss.sum())
        self.losses[iteration, self.rows] = loss.detach().cpu()
        self.held_out[iteration, self.rows] = held.cpu()
        self._choose(iteration, _to_bytes(pixels))

    def keep_frame(self, iteration: int) -> None:
        """Keep the images as they are now; stopped ones as they stopped."""
        self.frames.append(self.now.copy())
        self.at.append(iteration)

    def finish(self) -> Steered:
        """Collect the results."""
        height, width = self.images.shape[1:3]
        empty = np.empty((0, len(self.images), height, width, 3), np.uint8)
        frames = np.stack(self.frames) if self.frames else empty
        return Steered(
            self.images, self.losses, self.held_out, self.chosen, frames, np.array(self.at, int)
        )

    def _noise(self, iteration: int) -> Tensor:
        if iteration == 0 or not self.settings.fresh_noise:
            return self.noise
        return torch.randn(self.noise.shape, generator=self.drawn).to(self.noise)

    def _step(self, loss: Tensor) -> None:
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.schedule.step()

    def _choose(self, iteration: int, images: NDArray[np.uint8]) -> None:
        """Note the best iteration of each image so far, and which images go on."""
        if self.images is None:
            self.images, self.now = images.copy(), images.copy()
        self.now[self.rows] = images
        if self.settings.stopping == "none":
            better = np.ones(len(self.rows), bool)
        else:
            better = self.held_out[iteration, self.rows] < self.best[self.rows]
        taken = self.rows[better]
        self.best[taken] = self.held_out[iteration, taken]
        self.chosen[taken] = iteration
        self.images[taken] = images[better]
        waited = iteration - self.chosen[self.rows]
        self.rows = self.rows[waited < self.settings.patience]


def _lengthen(frames: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Repeat the last frame until there are `count`."""
    missing = [len(frames) - 1] * (count - len(frames))
    return frames[[*range(len(frames)), *missing]]


def _to_bytes(pixels: Tensor) -> NDArray[np.uint8]:
    levels = (pixels.detach() * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()
