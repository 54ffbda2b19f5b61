"""CLIP contexts: all tokens of an image or a caption, as Versatile Diffusion is conditioned on.

Not only the pooled vector but every token is projected into the shared space. The tokens of an
item are divided by the norm of its pooled token, so only that token has norm one.

Source: SHI-Labs/Versatile-Diffusion, `lib/model_zoo/clip.py` (encode_text, encode_vision).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from nbutils.networks import pictures

GREY_LEVELS = {"grey": 127, "black": 0}  # 127: the 0.5 of the original, truncated to 8 bits
UNCONDITIONAL = ("grey", "black", "zeros")


class ClipEncoder(nn.Module):
    """Image and text towers of CLIP with Versatile Diffusion's token normalisation.

    Parameters
    ----------
    config : dict
        `text_config` and `vision_config` (keywords of `transformers.CLIPTextConfig` and
        `CLIPVisionConfig`), `projection_dim`; optional `image_mean` and `image_std` (three
        numbers each; default OpenAI's). `text_config` must name the tokenizer's own
        `eos_token_id` and `pad_token_id`.
    tokenizer : transformers.PreTrainedTokenizerFast, optional
        Needed only by the methods that take text.

    Notes
    -----
    The state dict has CLIPModel's keys: `text_model.*`, `vision_model.*`, `text_projection.weight`,
    `visual_projection.weight` (no temperature: it plays no part here).
    """

    def __init__(self, config: Mapping, tokenizer=None) -> None:
        super().__init__()
        self.config, self.tokenizer = dict(config), tokenizer
        shared = {"projection_dim": config["projection_dim"]}
        text = CLIPTextModelWithProjection(CLIPTextConfig(**{**config["text_config"], **shared}))
        vision = CLIPVisionModelWithProjection(
            CLIPVisionConfig(**{**config["vision_config"], **shared})
        )
        self.text_model, self.text_projection = text.text_model, text.text_projection
        self.vision_model, self.visual_projection = vision.vision_model, vision.visual_projection
        size = vision.config.image_size
        self.processor = CLIPImageProcessorPil(
            size={"shortest_edge": size},
            crop_size={"height": size, "width": size},
            image_mean=list(config.get("image_mean", OPENAI_CLIP_MEAN)),
            image_std=list(config.get("image_std", OPENAI_CLIP_STD)),
        )

    @property
    def image_shape(self) -> tuple[int, int]:
        """Shape (tokens, width) of an image context; (257, 768) for ViT-L/14."""
        positions = self.vision_model.embeddings.position_embedding.num_embeddings
        return positions, self.config["projection_dim"]

    @property
    def text_shape(self) -> tuple[int, int]:
        """Shape (tokens, width) of a text context; (77, 768) for ViT-L/14."""
        positions = self.text_model.embeddings.position_embedding.num_embeddings
        return positions, self.config["projection_dim"]

    def preprocess(self, images: NDArray[np.uint8]) -> Tensor:
        """Resize the shorter side (PIL bicubic), crop the centre, standardise.

        Parameters
        ----------
        images : (n, H, W, 3) uint8; floats are refused, see `pictures.check`

        Returns
        -------
        pixel_values : (n, 3, image_size, image_size) float
        """
        images = list(pictures.check(images))
        pixels = self.processor(images, return_tensors="pt", input_data_format="channels_last")
        weight = self.visual_projection.weight
        return pixels["pixel_values"].to(weight.device, weight.dtype)

    def project_pixels(self, pixel_values: Tensor) -> Tensor:
        """Turn preprocessed images into normalised tokens; differentiable.

        Parameters
        ----------
        pixel_values : (n, 3, image_size, image_size)

        Returns
        -------
        tokens : (n, T_i, d); token 0 is the pooled one and has norm 1
        """
        hidden = self.vision_model(pixel_values=pixel_values).last_hidden_state
        tokens = self.visual_projection(self.vision_model.post_layernorm(hidden))
        return tokens / tokens[:, :1].norm(dim=-1, keepdim=True)

    def project_ids(self, ids: Tensor) -> Tensor:
        """Turn token ids into normalised tokens; differentiable.

        Parameters
        ----------
        ids : (n, T_t) int64, from start token to end token, then padding (no mask is used:
            attention is causal, and the padded tokens are part of the context)

        Returns
        -------
        tokens : (n, T_t, d); the end token is the pooled one and has norm 1
        """
        hidden = self.text_model(input_ids=ids).last_hidden_state
        tokens = self.text_projection(hidden)
        pooled = tokens[torch.arange(len(ids), device=ids.device), self.find_end(ids)]
        return tokens / pooled.norm(dim=-1)[:, None, None]

    def find_end(self, ids: Tensor) -> Tensor:
        """Return the position of the first end token of every row, (n,) int64.

        Raises
        ------
        ValueError
            If a row has none. (transformers would silently pool another token: the first, or
            for `eos_token_id=2` the one with the highest id.)
        """
        end = ids.eq(self.text_model.config.eos_token_id)
        if not end.any(dim=1).all():
            raise ValueError(
                f"A caption has no end token {self.text_model.config.eos_token_id}: the clip "
                "text_config must name the tokenizer's own eos_token_id (49407 for OpenAI's; the "
                "2 in its published configuration is a known mistake)."
            )
        return end.int().argmax(dim=1)

    def token_ids(self, captions: Sequence[str]) -> Tensor:
        """Tokenise captions, cut and padded to the length of the text context.

        Parameters
        ----------
        captions : n sentences

        Returns
        -------
        ids : (n, T_t) int64

        Raises
        ------
        ValueError
            If there are no captions, or no tokenizer was given.
        """
        length, pad = self.text_shape[0], self.text_model.config.pad_token_id
        ids = pad_ids(self.tokenizer, captions, length, pad)
        return ids.to(self.text_projection.weight.device)

    @torch.no_grad()
    def image_tokens(self, images: NDArray[np.uint8]) -> Tensor:
        """Return the image contexts C_I.

        Parameters
        ----------
        images : (n, H, W, 3) uint8

        Returns
        -------
        tokens : (n, T_i, d)

        Raises
        ------
        TypeError
            If the images are not uint8.
        """
        return self.project_pixels(self.preprocess(images))

    @torch.no_grad()
    def text_tokens(self, captions: Sequence[str]) -> Tensor:
        """Return the text contexts of captions: (n, T_t, d), one per caption."""
        return self.project_ids(self.token_ids(captions))

    @torch.no_grad()
    def caption_tokens(self, captions: Sequence[Sequence[str]]) -> Tensor:
        """Return the text contexts C_T of images: the mean over the captions of each image.

        The mean is not normalised again, as in Brain-Diffuser. Empty captions are left out.

        Parameters
        ----------
        captions : for each of n images, its captions

        Returns
        -------
        tokens : (n, T_t, d)

        Raises
        ------
        ValueError
            If an image has no caption.
        """
        return mean_over_captions(self.text_tokens, captions)

    @torch.no_grad()
    def image_embedding(self, images: NDArray[np.uint8]) -> Tensor:
        """Return the pooled, projected image embeddings with unit norm: (n, d)."""
        return self.image_tokens(images)[:, 0]

    @torch.no_grad()
    def text_embedding(self, captions: Sequence[str]) -> Tensor:
        """Return the pooled, projected text embeddings with unit norm: (n, d)."""
        ids = self.token_ids(captions)
        rows = torch.arange(len(ids), device=ids.device)
        return self.project_ids(ids)[rows, self.find_end(ids)]

    @torch.no_grad()
    def unconditional(self, kind: str = "grey", text: str = "") -> dict[str, Tensor]:
        """Return the contexts of "nothing", which guidance moves away from.

        The published codes differ: Brain-Diffuser encodes a mid-grey image, Versatile Diffusion's
        demo a black one (for captions) or takes zeros (for images).

        Parameters
        ----------
        kind : "grey", "black" or "zeros", for the image context
        text : encoded for the text context

        Returns
        -------
        contexts : {"image": (1, T_i, d), "text": (1, T_t, d)}

        Raises
        ------
        ValueError
            If `kind` is none of the three.
        """
        if kind not in UNCONDITIONAL:
            raise ValueError(f"kind={kind!r}: choose one of {', '.join(UNCONDITIONAL)}.")
        if kind == "zeros":
            image = self.visual_projection.weight.new_zeros(1, *self.image_shape)
        else:
            size = self.vision_model.config.image_size
            image = np.full((1, size, size, 3), GREY_LEVELS[kind], np.uint8)
            image = self.image_tokens(image)
        return {"image": image, "text": self.text_tokens([text])}


def pad_ids(tokenizer, captions: Sequence[str], length: int, pad: int) -> Tensor:
    """Tokenise captions, cut and padded to one length.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
    captions : n sentences
    length : tokens per caption
    pad : id of the padding token

    Returns
    -------
    ids : (n, length) int64, on the CPU

    Raises
    ------
    ValueError
        If there are no captions, or no tokenizer was given.
    """
    if isinstance(captions, str) or len(captions) == 0:
        raise ValueError(f"captions={captions!r}: pass a list with at least one caption.")
    if tokenizer is None:
        raise ValueError("CLIP was built without a tokenizer: pass tokenizer=... to use text.")
    # own padding: a tokenizer read from tokenizer.json alone does not know its padding token
    ids = torch.full((len(captions), length), pad, dtype=torch.int64)
    for row, caption in zip(ids, captions, strict=True):
        words = tokenizer(caption, truncation=True, max_length=length)["input_ids"]
        row[: len(words)] = torch.tensor(words)
    return ids


def mean_over_captions(
    encode: Callable[[Sequence[str]], Tensor], captions: Sequence[Sequence[str]]
) -> Tensor:
    """Encode the captions of images and average over those of each image.

    Parameters
    ----------
    encode : turns n sentences into tokens (n, T, d)
    captions : for each of n images, its captions; empty ones are left out

    Returns
    -------
    tokens : (n, T, d)

    Raises
    ------
    ValueError
        If an image has no caption.
    """
    groups = [[text for text in group if text.strip()] for group in captions]
    empty = [i for i, group in enumerate(groups) if not group]
    if empty:
        raise ValueError(f"Images {empty[:5]} have no caption: each image needs at least one.")
    tokens = encode([text for group in groups for text in group])
    parts = tokens.split([len(group) for group in groups])
    return torch.stack([part.mean(dim=0) for part in parts])
