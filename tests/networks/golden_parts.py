"""Golden numbers of the smaller networks, photographs, and tokenizers of a few words."""

import gzip
import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import skimage.data
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nbutils.networks import checkpoints_parts as parts

GOLDEN = Path(__file__).parents[1] / "golden"


def read_golden(name: str) -> SimpleNamespace:
    """Read weights, inputs, outputs (tensors by name) and the configuration of a tiny network."""
    arrays = np.load(GOLDEN / f"{name}.npz")
    parts = {"w": {}, "in": {}, "out": {}}
    for key in arrays:
        kind, _, rest = key.partition("/")
        # weights are stored as exact float16
        value = arrays[key].astype(np.float32) if kind == "w" else arrays[key]
        parts[kind][rest] = torch.from_numpy(value)
    config = json.loads((GOLDEN / f"{name}.json").read_text())
    return SimpleNamespace(state=parts["w"], inputs=parts["in"], outputs=parts["out"], json=config)


def read_manifest(name: str) -> dict:
    """Read a table of original names (with shapes, or with other names)."""
    with gzip.open(GOLDEN / f"{name}.json.gz") as file:
        return json.load(file)


def autokl_config() -> dict:
    """Our configuration of the tiny AutoKL, read from the original's."""
    original = read_golden("autokl_tiny").json["ddconfig"]
    levels = len(original["ch_mult"])
    return {
        "in_channels": original["in_channels"],
        "out_channels": original["out_ch"],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": [original["ch"] * m for m in original["ch_mult"]],
        "layers_per_block": original["num_res_blocks"],
        "latent_channels": original["z_channels"],
        "sample_size": 16,
        "scaling_factor": read_golden("autokl_tiny").json["scale_factor"],
    }


def optimus_config() -> dict:
    """Our configuration of the tiny Optimus (its padding token was never used)."""
    return {**read_golden("optimus_tiny").json, "pad": 100}


@cache
def golden_network(name: str):
    """Build a tiny network with the golden weights, converted from the original key names."""
    config, convert, network = {
        "autokl": (autokl_config(), parts.map_autokl, parts.AutoKL),
        "clip": (read_golden("clip_tiny").json, parts.map_clip, parts.ClipEncoder),
        "optimus": (optimus_config(), parts.map_optimus, parts.Optimus),
        "vdvae": (read_golden("vdvae_tiny").json["H"], parts.map_vdvae, parts.VDVAE),
    }[name]
    net = network(config)
    net.load_state_dict(convert(read_golden(f"{name}_tiny").state, config))
    return net.eval()


def photographs() -> list[np.ndarray]:
    """Photographs that ship inside scikit-image: 512x512, 400x600 and 300x451 pixels."""
    return [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]


def word_tokenizer(
    words: str, start: str, end: str, ids: dict[str, int]
) -> PreTrainedTokenizerFast:
    """Build a tokenizer that knows whole words, `start` and `end`; `ids` adds fixed numbers."""
    vocabulary = {**{w: i for i, w in enumerate(words.split(), start=3)}, **ids}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(start, vocabulary[start]), (end, vocabulary[end])]
    tokenizer.post_processor = processors.TemplateProcessing(f"{start} $A {end}", None, special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def wordpiece_tokenizer(pieces: dict[str, int]) -> PreTrainedTokenizerFast:
    """Build BERT's tokenizer over a few word pieces, cased as the original."""
    model = models.WordPiece({**pieces, "[UNK]": 100}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [("[CLS]", pieces["[CLS]"]), ("[SEP]", pieces["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_tokenizer(pieces: dict[str, int]) -> PreTrainedTokenizerFast:
    """Build GPT-2's byte-level tokenizer over a few pieces, with the merges that lead to them."""
    vocabulary, merges = dict(pieces), []
    for piece in pieces:
        for i in range(len(piece)):
            vocabulary.setdefault(piece[i], 60_000 + len(vocabulary))
            vocabulary.setdefault(piece[: i + 1], 60_000 + len(vocabulary))
        steps = [(piece[:i], piece[i]) for i in range(1, len(piece))]
        merges += [step for step in steps if step not in merges]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
