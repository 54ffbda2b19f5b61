"""Train the miniature Optimus: captions through one vector and back."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from nbutils.miniature.train.data import MAX_TOKENS, WORDS, TrainingScenes
from nbutils.miniature.train.loop import Schedule, fit
from nbutils.networks.optimus import Optimus

LATENT = 64
WORD_DROPOUT = 0.4  # of the decoder's input words: it must read the latent, not the sentence
KL_WEIGHT = 6e-4


def optimus_config() -> dict:
    """Two-layer BERT, latent of 64, two-layer GPT-2, one vocabulary of words for both."""
    return {
        "bert": {
            "vocab_size": len(WORDS),
            "hidden_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 384,
            "max_position_embeddings": MAX_TOKENS,
            "type_vocab_size": 1,
            "pad_token_id": 0,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        "gpt2": {
            "vocab_size": len(WORDS),
            "n_embd": 96,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": MAX_TOKENS + 8,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
        "latent_size": LATENT,
        "max_length": MAX_TOKENS,
        "pad": 0,
        "bos": 1,
        "eos": 2,
    }


def optimus_losses(
    net: Optimus, bag: nn.Linear, ids: torch.Tensor, pick: torch.Generator
) -> dict[str, torch.Tensor]:
    """Next-word loss with dropped words, words of the sentence from the latent, a little KL."""
    mean, logvar = net.encode_ids(ids)
    mean, logvar = mean.float(), logvar.float().clamp(-8, 4)
    z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=pick)
    dropped = torch.rand(ids.shape, generator=pick) < WORD_DROPOUT
    seen = torch.where(dropped & (ids > 2), torch.full_like(ids, 3), ids)
    logits = net.decoder_logits(seen[:, :-1], z).float()
    words = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)
    present = torch.zeros(len(ids), len(WORDS)).scatter_(1, ids, 1.0)[:, 4:]
    content = F.binary_cross_entropy_with_logits(bag(z)[:, 4:].float(), present)
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
    loss = words + 10 * content + KL_WEIGHT * kl
    return {"loss": loss, "words": words, "content": content, "kl": kl}


def train_optimus(
    data: TrainingScenes, folder: Path, steps: int = 2_500, batch: int = 128, **options
) -> Optimus:
    """Train the sentence autoencoder on all five captions of the drawn scenes."""
    torch.manual_seed(0)
    net, bag = Optimus(optimus_config()), nn.Linear(LATENT, len(WORDS))
    for layer in (net.memory, net.embedding):
        nn.init.normal_(layer.weight, std=0.005)  # else the latent drowns the words at first

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        pick = torch.Generator().manual_seed(step)
        rows = torch.randint(len(data), (batch,), generator=pick).numpy()
        which = torch.randint(5, (batch,), generator=pick).numpy()
        with torch.autocast("cpu", torch.bfloat16):
            return optimus_losses(net, bag, torch.from_numpy(data.tokens[rows, which]), pick)

    schedule = Schedule(steps, 1e-3, decay=0.6)
    fit("optimus", {"optimus": net, "bag": bag}, loss_of, schedule, folder, **options)
    return net.eval()
