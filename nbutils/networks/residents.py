"""The modules of a networks directory: built empty, filled from their files, and emptied again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from nbutils.networks import random_weights
from nbutils.networks.building import build, build_text_flow, empty_weights
from nbutils.networks.config import NetworksConfig
from nbutils.networks.filling import empty, existing, place, place_buffers, read_tensors
from nbutils.networks.inventory import FULL_PRECISION, PARTS, TOKENIZERS, parts_of, section

FLOWS = ("image_unet", "text_unet", "stable_unet")
CHANNELS_LAST = ("image_unet", "stable_unet", "autokl", "stable_autokl")
"""Networks of convolutions over images, which a GPU runs faster with the channels last."""


@dataclass
class Residents:
    """Modules by name, and which of them have their tensors on the device.

    A module stays the same object for good; only its tensors come and go. Which of them to keep is
    decided elsewhere.

    Attributes
    ----------
    directory : with networks.json, see `nbutils.networks.loading`
    config : sizes of the networks
    device, dtype : where tensors go, and as what, networks of full precision excepted
    weights : "stored" or "random"
    compiled : let torch.compile speed up the flows
    used : names of the networks that were asked for and not emptied since
    """

    directory: Path
    config: NetworksConfig
    device: torch.device
    dtype: torch.dtype
    weights: str = "stored"
    compiled: bool = False
    used: set[str] = field(default_factory=set, init=False)
    _modules: dict[str, nn.Module] = field(default_factory=dict, init=False)
    _filled: set[str] = field(default_factory=set, init=False)

    def find(self, name: str) -> nn.Module:
        """Return a network's module, built empty if this is the first time.

        Raises
        ------
        FileNotFoundError : a file of the network is not there
        ValueError : the directory has no such network
        """
        if name in self._modules:
            return self._modules[name]
        section(self.config, name)
        for part in parts_of(name) if self.weights == "stored" else ():
            existing(self._file(part))
        unet = self.find("image_unet") if name == "text_unet" else None
        words = {one: self.tokenizer(one) for one in TOKENIZERS.get(name, ())}
        with empty_weights():
            net = build_text_flow(self.config, unet) if unet else build(name, self.config, words)
        place_buffers(net, self.device, self._precision(name))
        net.eval().requires_grad_(False)
        if self.compiled and name in FLOWS:
            net.compile()
        self._modules[name] = net
        return net

    def tokenizer(self, name: str) -> PreTrainedTokenizerFast:
        """Read the tokenizer "clip", "bert" or "gpt2"; with random weights one may be made up."""
        path = self.directory / f"tokenizers/{name}/tokenizer.json"
        if self.weights == "random" and not path.is_file():
            return random_weights.make_tokenizer(name, self.config)
        return PreTrainedTokenizerFast(tokenizer_file=str(existing(path)))

    def holds(self, name: str) -> bool:
        """Tell whether a network is in use and all its tensors are on the device."""
        return name in self.used and self._filled.issuperset(parts_of(name))

    def fill(self, name: str) -> None:
        """Bring the tensors that a network, found before, does not have yet."""
        self.used.add(name)
        for part in parts_of(name):
            if part not in self._filled:
                self._fill_part(part)

    def keep(self, names: set[str]) -> None:
        """Empty every part that none of these networks needs."""
        parts = {part for name in names for part in parts_of(name)}
        for part, spec in PARTS.items():
            if part not in parts and spec.network in self._modules:
                empty(self._modules[spec.network], spec.holds)
                self._filled.discard(part)
        self.used &= names

    def _fill_part(self, part: str) -> None:
        """Fill the tensors of one part, straight to their device and precision."""
        name = PARTS[part].network
        net, dtype = self._modules[name], self._precision(name)
        last = self.device.type == "cuda" and name in CHANNELS_LAST
        for key, tensor in self._read(part, dtype):
            if last and tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            place(net, key, tensor)
        self._filled.add(part)

    def _read(self, part: str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        spec = PARTS[part]
        shapes = {k: v.shape for k, v in self._modules[spec.network].state_dict().items()}
        keys = [key for key in shapes if spec.holds(key)]
        if self.weights == "random":
            return random_weights.draw_tensors(spec.file, shapes, keys, self.device, dtype)
        return read_tensors(self._file(part), shapes, keys, self.device, dtype)

    def _precision(self, name: str) -> torch.dtype:
        return torch.float32 if name in FULL_PRECISION else self.dtype

    def _file(self, part: str) -> Path:
        return self.directory / f"{PARTS[part].file}.safetensors"
