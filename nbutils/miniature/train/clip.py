"""Train the miniature CLIP: contrastive, with labels read from every token."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
)

from nbutils.miniature.scenes import LABELS
from nbutils.miniature.train.data import MAX_TOKENS, WORDS, TrainingScenes
from nbutils.miniature.train.loop import Schedule, fit

WIDTH = 64  # of the shared embedding, and so of the contexts


def clip_config() -> CLIPConfig:
    """Architecture of the miniature CLIP: 17 image tokens and 16 text tokens of width 64."""
    text = {
        "vocab_size": len(WORDS),
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "projection_dim": WIDTH,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 16,
        "projection_dim": WIDTH,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)


class ClipTrainer(nn.Module):
    """Both towers, the temperature, and linear readers of labels and place.

    The readers make every token say what is in the picture; they are not shipped.
    """

    def __init__(self) -> None:
        super().__init__()
        config = clip_config()
        for part in (config.text_config, config.vision_config):
            part._attn_implementation = "eager"  # 17 tokens: plain attention is faster
        self.text = CLIPTextModelWithProjection(config.text_config)
        self.vision = CLIPVisionModelWithProjection(config.vision_config)
        self.read_image = nn.Linear(WIDTH, len(LABELS))
        self.read_text = nn.Linear(WIDTH, len(LABELS))
        self.read_place = nn.Linear(WIDTH, 3)
        self.temperature = nn.Parameter(torch.tensor(2.5))

    def image_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Project every image token and divide by the norm of the first, as in VD."""
        hidden = self.vision.vision_model(pixel_values=pixels).last_hidden_state
        tokens = self.vision.visual_projection(self.vision.vision_model.post_layernorm(hidden))
        return tokens / tokens[:, :1].norm(dim=-1, keepdim=True)

    def text_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """Project every text token and divide by the norm of the ``<EOS>`` token, as in VD."""
        tokens = self.text.text_projection(self.text.text_model(input_ids=ids).last_hidden_state)
        last = (ids == 2).int().argmax(1)
        pooled = tokens[torch.arange(len(ids), device=ids.device), last]
        return tokens / pooled.norm(dim=-1)[:, None, None]


def normalise_pixels(images: torch.Tensor) -> torch.Tensor:
    """Scale uint8 (n, H, W, 3) to [-1, 1], channels first (mean and std one half)."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def clip_losses(
    net: ClipTrainer,
    images: torch.Tensor,
    ids: torch.Tensor,
    labels: torch.Tensor,
    place: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Contrastive loss of pooled and mean tokens, labels from every token, place from images."""
    image, text = net.image_tokens(normalise_pixels(images)), net.text_tokens(ids)
    last = (ids == 2).int().argmax(1)
    pooled = text[torch.arange(len(ids), device=ids.device), last]
    target = torch.arange(len(ids), device=ids.device)
    contrastive = 0.0
    for part, weight in ((image[:, 0], 1.0), (image[:, 1:].mean(1), 0.5)):
        similar = F.normalize(part.float(), dim=-1) @ F.normalize(pooled.float(), dim=-1).T
        logits = similar * net.temperature.exp()
        contrastive += weight * 0.5 * F.cross_entropy(logits, target)
        contrastive += weight * 0.5 * F.cross_entropy(logits.T, target)
    reach = 8.0  # tokens have about unit norm: without it the readers start almost blind
    read_image = F.binary_cross_entropy_with_logits(
        net.read_image(reach * image).float(), labels[:, None].expand(-1, image.shape[1], -1)
    )
    valid = (ids != 0).float()
    causal = torch.arange(ids.shape[1], device=ids.device)[None] >= last[:, None]
    each = F.binary_cross_entropy_with_logits(
        net.read_text(reach * text).float(),
        labels[:, None].expand(-1, text.shape[1], -1),
        reduction="none",
    ).mean(-1)
    weight = causal.float() + 0.2 * valid * (~causal)  # early words cannot know the sentence
    read_text = (each * weight).sum() / weight.sum()
    where = F.mse_loss(net.read_place(reach * image).float(), place[:, None].expand(-1, 17, -1))
    loss = contrastive + 6 * read_image + 3 * read_text + 0.5 * where
    return {
        "loss": loss,
        "contrastive": contrastive,
        "labels": read_image,
        "text_labels": read_text,
        "place": where,
    }


def train_clip(
    data: TrainingScenes, folder: Path, steps: int = 1_700, batch: int = 192, **options
) -> ClipTrainer:
    """Train CLIP on drawn scenes, with one random caption of five in each step."""
    torch.manual_seed(0)
    net = ClipTrainer()

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        pick = torch.Generator().manual_seed(step)
        rows = torch.randint(len(data), (batch,), generator=pick).numpy()
        which = torch.randint(5, (batch,), generator=pick).numpy()
        arrays = data.images[rows], data.tokens[rows, which], data.labels[rows], data.place[rows]
        with torch.autocast("cpu", torch.bfloat16):
            return clip_losses(net, *map(torch.from_numpy, arrays))

    fit("clip", {"clip": net}, loss_of, Schedule(steps, 1e-3, decay=0.5), folder, **options)
    return net.eval()
