"""Stable Diffusion's own networks: a U-Net painted by text, and CLIP's raw text tokens.

Versatile Diffusion shares the layout of this U-Net but not its condition: here the tokens are the
text tower's last hidden states as they are, neither projected nor normalised, and there is one
transformer per place, for text. The autoencoder is `nbutils.networks.autokl.AutoKL`, the loop
`nbutils.networks.sampling.ddim`.

Source: Rombach et al. 2022 (latent diffusion); CompVis/stable-diffusion, `configs/
stable-diffusion/v1-inference.yaml`, and the diffusers edition of Stable Diffusion 1.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from nbutils.networks.clip import mean_over_captions, pad_ids
from nbutils.networks.config import StableConfig, VersatileConfig

STABLE_V1_4: dict = {
    "unet": {
        "latent_channels": 4,
        "latent_size": 64,
        "channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "attention": (True, True, True, False),
        "heads": 8,
        "context_dim": 768,
    },
    "text": {
        "vocab_size": 49_408,
        "hidden_size": 768,
        "intermediate_size": 3_072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "bos_token_id": 49_406,
        "eos_token_id": 49_407,
        "pad_token_id": 49_407,
    },
    "autokl": {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    },
}
"""The published Stable Diffusion 1.4; as printed there, captions are padded with their end token
(the tokenizer's own setting), not with the 1 of the text tower's configuration."""


def build_stable_unet(config: StableConfig | VersatileConfig) -> UNet2DConditionModel:
    """Build the U-Net, diffusers' own class; 859,520,964 parameters at the published size.

    Versatile Diffusion's image flow has the same layers, with other transformers. Build it under
    `torch.device("meta")` when weights are loaded right after.
    """
    return UNet2DConditionModel(
        sample_size=config.latent_size,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        down_block_types=tuple(
            "CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention
        ),
        up_block_types=tuple(
            "CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(config.attention)
        ),
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        cross_attention_dim=config.context_dim,
        attention_head_dim=config.heads,  # diffusers' name for the number of heads
        norm_num_groups=config.norm_groups,
    )


def stable_flow(
    unet: UNet2DConditionModel,
    x: Tensor,
    t: Tensor | int,
    contexts: Mapping[str, tuple[Tensor, float | Tensor]],
) -> Tensor:
    """Predict the noise (or v) in image latents; the `Flow` of `sampling.ddim`.

    Parameters
    ----------
    unet : of `build_stable_unet`; it computes in the precision of its weights
    x : (n, c, h, w) noisy latents, whose precision the result keeps
    t : timestep 0..999, one for all or (n,)
    contexts : {"text": (tokens (n, T, d), 1.0)}

    Returns
    -------
    (n, c, h, w)

    Raises
    ------
    ValueError : any other context, or another weight: this network has one condition
    """
    given = {kind: weight for kind, (_, weight) in contexts.items()}
    if given != {"text": 1}:
        raise ValueError(f"contexts {given}: Stable Diffusion takes 'text' alone, with weight 1")
    dtype = unet.conv_in.weight.dtype
    tokens = contexts["text"][0].to(dtype)
    return unet(x.to(dtype), t, tokens, return_dict=False)[0].to(x)


class StableText(nn.Module):
    """The text tower of CLIP as Stable Diffusion reads it: raw last hidden states.

    Parameters
    ----------
    config : keywords of `transformers.CLIPTextConfig`
    tokenizer : transformers.PreTrainedTokenizerFast, optional
        Needed only by the methods that take text.

    Notes
    -----
    The keys of the state dict are `text_model.*`, as in the published checkpoints.
    """

    def __init__(self, config: Mapping, tokenizer=None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.text_model = CLIPTextModel(CLIPTextConfig(**config))

    @property
    def text_shape(self) -> tuple[int, int]:
        """Shape (tokens, width) of a condition; (77, 768) at the published size."""
        config = self.text_model.config
        return config.max_position_embeddings, config.hidden_size

    def token_ids(self, captions: Sequence[str]) -> Tensor:
        """Tokenise captions, cut and padded to the length of the condition: (n, T) int64."""
        ids = pad_ids(
            self.tokenizer, captions, self.text_shape[0], self.text_model.config.pad_token_id
        )
        return ids.to(next(self.parameters()).device)

    @torch.no_grad()
    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Return the conditions of captions: (n, T, d), one per caption."""
        return self.text_model(input_ids=self.token_ids(captions)).last_hidden_state

    @torch.no_grad()
    def caption_tokens(self, captions: Sequence[Sequence[str]]) -> Tensor:
        """Return the conditions of images: the mean over the captions of each image.

        Parameters
        ----------
        captions : for each of n images, its captions; empty ones are left out

        Returns
        -------
        tokens : (n, T, d)

        Raises
        ------
        ValueError : an image has no caption

        Source: the published features of Takagi & Nishimoto (`img2feat_sd.py`).
        """
        return mean_over_captions(self.tokens, captions)

    def unconditional(self) -> Tensor:
        """Return the condition of the empty caption, (1, T, d), which guidance moves away from."""
        return self.tokens([""])
