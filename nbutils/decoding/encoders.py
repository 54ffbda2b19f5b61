"""From images and captions to features: one function for each frozen network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from nbutils.networks.batches import run_batches
from nbutils.networks.memory import MemoryPlan

FEATURES = ("clip_image", "clip_text", "autokl", "optimus", "vdvae")
FROM_CAPTIONS = ("clip_text", "optimus", "stable_text")
CONTROL_FEATURES = ("control", "control_embedding")
"""What MindDiffuser's control network sees: its lower layers, and its projected embedding."""
STABLE_FEATURES = ("stable_latent", "stable_text")
"""z and c of the systems on Stable Diffusion: a latent of the image, tokens of its captions."""
NETWORK = {
    "clip_image": "clip",
    "clip_text": "clip",
    "control_embedding": "control",
    "stable_latent": "stable_autokl",
}
"""Feature -> network that computes it, where the two are not called the same."""

Encode = Callable[[NDArray[np.uint8] | None, Sequence[Sequence[str]], NDArray[np.int64]], Any]
"""``(images, captions, nsd_ids) -> (n, ...)``; features of captions need no images."""


class FeatureOptions(BaseModel):
    """How images and captions become features; the defaults are the careful choices.

    A posterior that is sampled gives other features at every extraction unless it is seeded; here
    every image has its own seed, so that the choice of images and the batch size change nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vdvae_layers: int | None = Field(
        None, ge=1, description="VDVAE layers to keep, coarsest first (published: 31); None = all"
    )
    vdvae_latents: Literal["mean", "sample"] = Field(
        "mean", description="posterior mean, or one seeded draw (published code: unseeded draw)"
    )
    autokl_latent: Literal["mode", "sample"] = Field(
        "mode", description="mode of the posterior, or one seeded draw (published code: a draw)"
    )
    z_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="side of the image that the stable latent is taken from, as a part of the "
        "network's own (published by Takagi & Nishimoto: 320 of 512, reduced by Lanczos)",
    )
    captions: Literal["mean", "first"] = Field(
        "mean", description="mean of the features of all captions, or the first caption only"
    )
    seed: int = Field(0, ge=0, description="seed of the draws, combined with each nsd_id")

    def of(self, name: str) -> dict[str, Any]:
        """The options that one kind of features depends on.

        The others can change and its files stay valid; a seed matters where something is drawn.
        """
        fields = {
            "clip_text": ["captions"],
            "optimus": ["captions"],
            "autokl": ["autokl_latent"],
            "stable_latent": ["autokl_latent", "z_fraction"],
            "stable_text": ["captions"],
            "vdvae": ["vdvae_layers", "vdvae_latents"],
        }.get(name, [])
        chosen = {field: getattr(self, field) for field in fields}
        return chosen | ({"seed": self.seed} if "sample" in chosen.values() else {})


def check_name(name: str) -> None:
    """Refuse a name for which there is no encoder.

    Raises
    ------
    ValueError
        Names the choices.
    """
    if name not in _ENCODERS:
        raise ValueError(f"feature {name!r}: choose one of {', '.join(_ENCODERS)}.")


def encoder(name: str, networks: Any, options: FeatureOptions) -> Encode:
    """Function ``(images, captions, nsd_ids) -> (n, ...)`` that computes one kind of features.

    Parameters
    ----------
    name : one of `FEATURES`, `STABLE_FEATURES` or `CONTROL_FEATURES`
    networks : `nbutils.networks.loading.Networks`
    options : how images and captions are encoded

    Raises
    ------
    ValueError
        If the name is unknown, or the VDVAE has fewer layers than the options ask for.
    """
    check_name(name)
    if name == "vdvae" and options.vdvae_layers is not None:
        networks.vdvae.count_features(options.vdvae_layers)
    encode = _ENCODERS[name]

    # An autoencoder's first layers take far more memory than an encoder of tokens.
    limit = "decode_batch" if NETWORK.get(name, name).endswith("autokl") else "encode_batch"

    @torch.inference_mode()
    def run(images: NDArray | None, captions: Sequence[Sequence[str]], nsd_ids: NDArray) -> Any:
        def encode_rows(rows: slice, plan: MemoryPlan) -> Any:
            pixels = None if images is None else images[rows]
            return encode(networks, options, pixels, captions[rows], nsd_ids[rows])

        n = len(nsd_ids)
        parts = run_batches(networks, n, n, encode_rows, limit=limit)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return run


def generators(seed: int, nsd_ids: Iterable[int], purpose: str) -> list[torch.Generator]:
    """Random generators, one for each image, independent of the other images and their order.

    Parameters
    ----------
    seed : not negative
    nsd_ids : images
    purpose : what is drawn; two purposes draw unrelated numbers for the same image
    """
    stream = int.from_bytes(purpose.encode(), "little")
    states = (
        np.random.SeedSequence([seed, int(nsd_id), stream]).generate_state(1, np.uint64)[0] >> 1
        for nsd_id in nsd_ids
    )
    return [torch.Generator().manual_seed(int(state)) for state in states]


def _encode_clip_image(networks, options, images, captions, nsd_ids):
    return networks.clip.image_tokens(images)


def _encode_clip_text(networks, options, images, captions, nsd_ids):
    return networks.clip.caption_tokens(choose_captions(captions, options))


def _encode_autokl(networks, options, images, captions, nsd_ids):
    if options.autokl_latent == "mode":
        return networks.autokl.encode(images)
    return networks.autokl.encode(images, generators(options.seed, nsd_ids, "autokl feature"))


def _encode_optimus(networks, options, images, captions, nsd_ids):
    chosen = choose_captions(captions, options)
    latents = networks.optimus.encode([text for texts in chosen for text in texts])
    groups = torch.split(latents, [len(texts) for texts in chosen])
    return torch.stack([group.mean(dim=0) for group in groups])


def _encode_vdvae(networks, options, images, captions, nsd_ids):
    n_layers = options.vdvae_layers or len(networks.vdvae.layer_shapes)
    if options.vdvae_latents == "mean":
        return networks.vdvae.latents(images, n_layers)
    draws = generators(options.seed, nsd_ids, "vdvae feature")
    return networks.vdvae.latents(images, n_layers, sample=True, generator=draws)


def _encode_control(networks, options, images, captions, nsd_ids):
    return networks.control.describe(images)[0]


def _encode_control_embedding(networks, options, images, captions, nsd_ids):
    return networks.control.describe(images)[1]


def _encode_stable_latent(networks, options, images, captions, nsd_ids):
    draws = None
    if options.autokl_latent == "sample":
        draws = generators(options.seed, nsd_ids, "stable feature")
    size = round(options.z_fraction * networks.stable_autokl.image_size)
    return networks.stable_autokl.encode(images, draws, size=size, method="lanczos")


def _encode_stable_text(networks, options, images, captions, nsd_ids):
    return networks.stable_text.caption_tokens(choose_captions(captions, options))


_ENCODERS = {
    "clip_image": _encode_clip_image,
    "clip_text": _encode_clip_text,
    "autokl": _encode_autokl,
    "optimus": _encode_optimus,
    "vdvae": _encode_vdvae,
    "stable_latent": _encode_stable_latent,
    "stable_text": _encode_stable_text,
    "control": _encode_control,
    "control_embedding": _encode_control_embedding,
}


def choose_captions(captions: Sequence[Sequence[str]], options: FeatureOptions) -> list[list[str]]:
    """The captions of each image that are encoded; empty ones are left out."""
    filled = [[text for text in texts if text] for texts in captions]
    return [texts[:1] for texts in filled] if options.captions == "first" else filled
