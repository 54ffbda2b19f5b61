"""Full-size networks without any file: random weights and made-up tokenizers, for rehearsals.

Every tensor is drawn from (0, its key), with a spread that keeps activations finite in 16 bits.
The pictures and sentences mean nothing; `nbutils.caveats` says so on figures and beside files.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterable, Iterator, Mapping

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nbutils.networks.config import NetworksConfig

GAIN = 0.5
"""Factor on the spread 1 / sqrt(fan-in): below 1, so that residual branches stay small."""


def draw_tensors(
    file: str,
    shapes: Mapping[str, torch.Size],
    keys: Iterable[str],
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[tuple[str, Tensor]]:
    """Yield random tensors of a file, each made where it is needed.

    Parameters
    ----------
    file : name of the file whose place they take; with the key it decides the numbers
    shapes : of all tensors
    keys : those that are wanted
    device, dtype : where and in which precision; the numbers differ between kinds of devices
    """
    for key in keys:
        yield key, draw_tensor(f"{file}/{key}", shapes[key], device, dtype)


def draw_tensor(
    key: str, shape: torch.Size, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw one tensor: weights of normalisations 1, biases 0, everything else normal.

    The spread is `GAIN` / sqrt(fan-in), as for trained layers in order of magnitude.
    """
    name = key.rpartition(".")[2]
    if len(shape) <= 1 and name == "bias":
        return torch.zeros(shape, device=device, dtype=dtype)
    if len(shape) <= 1 and name == "weight":
        return torch.ones(shape, device=device, dtype=dtype)
    digest = hashlib.sha256(f"0/{key}".encode()).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))
    spread = GAIN / max(1, shape[1:].numel() if len(shape) > 1 else shape.numel()) ** 0.5
    values = torch.empty(shape, device=device, dtype=dtype)
    return values.normal_(0, spread, generator=generator)


def make_tokenizer(name: str, config: NetworksConfig) -> PreTrainedTokenizerFast:
    """Make a tokenizer of the right size: each character is a token, unknown ones share one.

    Any caption can be encoded, and any sequence of ids decoded to text.

    Parameters
    ----------
    name : "clip", "bert" or "gpt2"
    config : vocabulary and special ids
    """
    size, start, end, pad = _ids(name, config)
    free = (i for i in range(size) if i not in {start, end, pad})
    vocabulary = {"<start>": start, "<end>": end, "<pad>": pad, "<unknown>": next(free)}
    vocabulary |= dict(zip(string.ascii_lowercase + string.digits + ".,'-", free, strict=False))
    vocabulary |= {f"word{i}": i for i in free}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = Split(Regex(r"\S"), "removed", invert=True)
    if name != "gpt2":
        tokenizer.post_processor = TemplateProcessing(
            single="<start> $A <end>", special_tokens=[("<start>", start), ("<end>", end)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unknown>")


def _ids(name: str, config: NetworksConfig) -> tuple[int, int, int, int]:
    """Return size, start, end and padding id of a vocabulary."""
    if name == "clip":
        text = config.clip["text_config"]
        size = text["vocab_size"]
        end = text.get("eos_token_id", size - 1)
        return size, text.get("bos_token_id", size - 2), end, text.get("pad_token_id", end)
    if name == "gpt2":
        sizes = config.optimus
        return sizes["gpt2"]["vocab_size"], sizes["bos"], sizes["eos"], sizes["pad"]
    bert = config.optimus["bert"]
    # As in bert-base-cased, where the vocabulary is large enough.
    start = 101 if bert["vocab_size"] > 200 else 1
    return bert["vocab_size"], start, start + 1, bert.get("pad_token_id", 0)
