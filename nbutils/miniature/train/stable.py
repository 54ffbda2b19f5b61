"""Train the miniature Stable Diffusion: a painter of the shipped latents, told what by text.

The other shipped networks stay as they are: latents are those of the shipped AutoKL, the text
tower is the shipped CLIP's, read without its projection. The U-Net starts from the shipped image
flow, whose data layers have the same shapes, and learns on with the recipe of the flows:
v-prediction, uncertain contexts, one in ten replaced by that of the empty caption.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from nbutils.miniature.train.data import TrainingScenes
from nbutils.miniature.train.flows import corrupt, flow_config
from nbutils.miniature.train.loop import Schedule, fit
from nbutils.miniature.train.prepare import stream
from nbutils.networks.clip import ClipEncoder
from nbutils.networks.config import StableConfig
from nbutils.networks.loading import Networks
from nbutils.networks.sampling import build_scheduler
from nbutils.networks.stable import build_stable_unet, stable_flow
from nbutils.networks.versatile import set_attention


def stable_config(context_dim: int) -> StableConfig:
    """Sizes of the miniature Stable Diffusion: those of the image flow, text tokens raw."""
    sizes = asdict(flow_config())
    kept = {key: sizes[key] for key in StableConfig.__dataclass_fields__}
    return StableConfig(**{**kept, "context_dim": context_dim})


@dataclass(frozen=True)
class StableData:
    """What the U-Net is trained on, computed once by the shipped networks.

    Attributes
    ----------
    latents : (n, 16, 8, 8) float16, unit variance
    text : (n, 5, 16, 96) float16 last hidden states, one per caption
    empty : (16, 96) the condition of the empty caption
    mean, std : (16, 96) of the means over five captions
    """

    latents: np.ndarray
    text: np.ndarray
    empty: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor


def prepare_stable(data: TrainingScenes, networks: Networks, folder: Path) -> StableData:
    """Encode all training scenes; a second call reads the files of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    clip, autokl = networks.clip, networks.autokl

    def hidden(tokens: torch.Tensor) -> torch.Tensor:
        return clip.text_model(input_ids=tokens).last_hidden_state

    def latents(images: torch.Tensor) -> torch.Tensor:
        return autokl.encode(images.numpy())

    text = stream(
        folder / "stable_text.npy",
        data.tokens,
        lambda tokens: hidden(tokens.flatten(0, 1)).unflatten(0, (-1, 5)),
    )
    some = torch.from_numpy(np.float32(text[:4_000]).mean(1))
    return StableData(
        latents=stream(folder / "stable_latents.npy", data.images, latents),
        text=text,
        empty=hidden(clip.token_ids([""]))[0].float(),
        mean=some.mean(0),
        std=some.std(0),
    )


def start_from_flow(unet: UNet2DConditionModel, networks: Networks, data: StableData) -> None:
    """Give the U-Net the weights of the shipped image flow with its text transformers.

    The flow's keys and values read projected tokens divided by the norm of the end token; here
    they read the raw tokens, so the projection, over the usual norm, is multiplied into them.
    """
    clip: ClipEncoder = networks.clip
    projection = clip.text_projection.weight
    norm = (data.mean @ projection.T).norm(dim=-1).mean()
    state = {}
    for key, tensor in networks.image_unet.state_dict().items():
        if ".attentions." in key:
            if ".image." in key:
                continue
            key = key.replace(".text.", ".", 1)
        if key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            tensor = tensor @ projection / norm
        state[key] = tensor
    unet.load_state_dict(state)


class StableLoss:
    """Error of the predicted v at random noise levels, text contexts made uncertain."""

    def __init__(self, data: StableData, networks: Networks, batch: int) -> None:
        self.config = stable_config(data.text.shape[-1])
        self.data, self.batch = data, batch
        self.unet = build_stable_unet(self.config)
        start_from_flow(self.unet, networks, data)
        set_attention(self.unet, "plain")
        self.scheduler = build_scheduler(self.config)

    def __call__(self, step: int) -> dict[str, torch.Tensor]:
        """Losses of one step; the random numbers follow from the step alone."""
        pick = torch.Generator().manual_seed(step)
        rows = torch.randint(len(self.data.latents), (self.batch,), generator=pick).numpy()
        clean = torch.from_numpy(np.float32(self.data.latents[rows]))
        t = torch.randint(1_000, (self.batch,), generator=pick)
        noise = torch.randn(clean.shape, generator=pick)
        noisy = self.scheduler.add_noise(clean, noise, t)
        velocity = self.scheduler.get_velocity(clean, noise, t)
        contexts = {"text": (self._tokens(rows, pick), 1.0)}
        with torch.autocast("cpu", torch.bfloat16):
            predicted = stable_flow(self.unet, noisy, t, contexts)
        # As for the flows: low noise is easy and frequent on this schedule.
        kept = self.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        weight = (10 * (1 - kept)).clamp(max=1.0)
        error = (predicted.float() - velocity).square()
        return {"loss": (weight * error).mean(), "plain": error.mean()}

    def _tokens(self, rows: np.ndarray, pick: torch.Generator) -> torch.Tensor:
        """Conditions of some scenes: mean or one caption, made uncertain, one in ten empty."""
        which = torch.randint(5, (len(rows),), generator=pick).numpy()
        mean_text = bool(torch.rand(1, generator=pick) < 0.7)
        data = self.data
        text = data.text[rows].mean(1, dtype=np.float32) if mean_text else data.text[rows, which]
        tokens = corrupt(torch.from_numpy(np.float32(text)), data.mean, data.std, pick)
        drop = torch.rand(len(rows), 1, 1, generator=pick) < 0.1
        return torch.where(drop, data.empty, tokens)


def train_stable(
    data: StableData,
    networks: Networks,
    folder: Path,
    steps: int = 720,
    batch: int = 64,
    rate: float = 5e-4,
    decay: float = 0.6,
    **options,
) -> StableLoss | None:
    """Train the U-Net, or continue where its checkpoint stands; None until it is finished."""
    loss = StableLoss(data, networks, batch)
    schedule = Schedule(steps, rate, decay=decay)
    return loss if fit("stable", {"unet": loss.unet}, loss, schedule, folder, **options) else None
