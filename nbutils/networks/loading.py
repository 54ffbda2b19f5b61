"""Load the frozen networks of a directory, each on first use.

A networks directory holds `networks.json` (sizes), one `.safetensors` file per network and
`tokenizers/<name>/tokenizer.json`. The published networks and the miniature ones differ in these
files only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedTokenizerFast

from nbutils.networks.autokl import AutoKL
from nbutils.networks.checkpoints_versatile import compare_keys
from nbutils.networks.classifier import SceneClassifier
from nbutils.networks.clip import ClipEncoder
from nbutils.networks.config import NetworksConfig
from nbutils.networks.optimus import Optimus
from nbutils.networks.vdvae import VDVAE
from nbutils.networks.versatile import TextUNet, build_image_unet, mixers

NAMES = ("clip", "autokl", "optimus", "vdvae", "classifier", "image_unet", "text_unet")

FULL_PRECISION = ("vdvae", "classifier")
# In half precision the chain of VDVAE latents drifts, and the classifier is a measuring instrument.


def load(
    directory: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Networks:
    """Open a networks directory; weights are read when a network is first asked for.

    Parameters
    ----------
    directory : with networks.json, see the module's docstring
    device : where the networks live
    dtype : of their weights; VDVAE and the classifier are always float32

    Returns
    -------
    Networks : attributes `config`, `clip`, `autokl`, `optimus`, `vdvae`, `classifier`, `image_unet`
        and `text_unet`

    Raises
    ------
    FileNotFoundError : no networks.json
    """
    return Networks(directory, device, dtype)


class Networks:
    """The frozen networks of one directory; see `load`."""

    def __init__(
        self, directory: str | Path, device: str | torch.device, dtype: torch.dtype
    ) -> None:
        self.directory = Path(directory)
        self.device = torch.device(device)
        self.dtype = dtype
        self.config = NetworksConfig.from_json(self.directory / "networks.json")
        self._loaded: dict[str, nn.Module] = {}
        self._unet: UNet2DConditionModel | None = None

    def __repr__(self) -> str:
        return f"Networks({str(self.directory)!r}, loaded={sorted(self._loaded)})"

    @property
    def clip(self) -> ClipEncoder:
        """CLIP: images and captions to tokens and embeddings."""
        return self._get("clip", self._load_module)

    @property
    def autokl(self) -> AutoKL:
        """AutoKL: images to latents of the image flow and back."""
        return self._get("autokl", self._load_module)

    @property
    def optimus(self) -> Optimus:
        """Optimus: captions to latents of the text flow and back."""
        return self._get("optimus", self._load_module)

    @property
    def vdvae(self) -> VDVAE:
        """VDVAE: images to hierarchical latents and back."""
        return self._get("vdvae", self._load_module)

    @property
    def classifier(self) -> SceneClassifier:
        """The scene classifier of the miniature world."""
        return self._get("classifier", self._load_module)

    @property
    def image_unet(self) -> UNet2DConditionModel:
        """The image flow's U-Net; call it through `versatile.image_flow`."""
        return self._get("image_unet", self._load_image_unet)

    @property
    def text_unet(self) -> TextUNet:
        """The text flow's U-Net; call it through `versatile.text_flow`.

        It shares the context mixers of the image U-Net; alone, it leaves that one's image data
        layers on disk.
        """
        return self._get("text_unet", self._load_text_unet)

    def tokenizer(self, name: str) -> PreTrainedTokenizerFast:
        """Read the tokenizer "clip", "bert" or "gpt2"."""
        path = self._path(f"tokenizers/{name}/tokenizer.json")
        return PreTrainedTokenizerFast(tokenizer_file=str(path))

    def release(self, *names: str) -> None:
        """Forget networks, all of them if none is named, and give their memory back.

        A variable of yours that holds a network keeps its memory occupied.

        Raises
        ------
        ValueError : unknown name
        """
        for name in names or NAMES:
            if name not in NAMES:
                raise ValueError(f"network {name!r}: choose one of {NAMES}")
            net = self._loaded.pop(name, None)
            if name == "image_unet" and net is not None and "text_unet" in self._loaded:
                self._empty(net, _is_image_data)
        if not {"image_unet", "text_unet"} & set(self._loaded):
            self._unet = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _get(self, name: str, loader: Callable[[str], nn.Module]) -> nn.Module:
        if name not in self._loaded:
            self._loaded[name] = loader(name)
        return self._loaded[name]

    def _load_module(self, name: str) -> nn.Module:
        _section(self.config, name)
        path = self._path(f"{name}.safetensors")
        net = build(name, self.config, self._tokenizers(name))
        dtype = torch.float32 if name in FULL_PRECISION else self.dtype
        # Buffers that are in no file (positions) are real here, so this cannot be built on "meta".
        net = net.to(self.device, dtype)
        return self._fill(net, path, dtype)

    def _load_image_unet(self, name: str) -> UNet2DConditionModel:
        return self._fill(
            self._shared_unet(), self._path("image_flow.safetensors"), self.dtype, _is_image_data
        )

    def _load_text_unet(self, name: str) -> TextUNet:
        unet = self._shared_unet()
        with torch.device("meta"):
            net = TextUNet(self.config.versatile, mixers(unet), unet.time_embedding)
        return self._fill(net, self._path("text_data.safetensors"), self.dtype)

    def _shared_unet(self) -> UNet2DConditionModel:
        """Return the image U-Net with mixers and time embedding loaded, data layers perhaps not."""
        if self._unet is None:
            path = self._path("image_flow.safetensors")
            with torch.device("meta"):
                unet = build_image_unet(self.config.versatile)
            self._unet = self._fill(unet, path, self.dtype, lambda key: not _is_image_data(key))
        return self._unet

    def _fill(
        self,
        net: nn.Module,
        path: Path,
        dtype: torch.dtype,
        choose: Callable[[str], bool] = lambda key: True,
    ) -> nn.Module:
        """Read the chosen tensors of a file into a network, whatever device it was built on."""
        with safe_open(path, framework="pt") as file:
            compare_keys(set(file.keys()), set(net.state_dict()), str(path))
            tensors = {
                key: file.get_tensor(key).to(self.device, dtype)
                for key in file.keys()
                if choose(key)
            }
        # The key sets are equal, so strict=False only lets the chosen part through.
        net.load_state_dict(tensors, strict=False, assign=True)
        return net.eval().requires_grad_(False)

    def _empty(self, net: nn.Module, choose: Callable[[str], bool]) -> None:
        """Give back the memory of the chosen tensors of a network."""
        kept = {key: value.to("meta") for key, value in net.state_dict().items() if choose(key)}
        net.load_state_dict(kept, strict=False, assign=True)

    def _tokenizers(self, name: str) -> dict[str, PreTrainedTokenizerFast]:
        wanted = {"clip": ("clip",), "optimus": ("bert", "gpt2")}.get(name, ())
        return {tokenizer: self.tokenizer(tokenizer) for tokenizer in wanted}

    def _path(self, name: str) -> Path:
        path = self.directory / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: convert the published checkpoints into {self.directory} "
                "(nbutils.networks.checkpoints.convert_directory) or choose a directory that has it"
            )
        return path


def _is_image_data(key: str) -> bool:
    """Tell whether a tensor of the image U-Net is used by the image flow alone."""
    return ".attentions." not in key and not key.startswith("time_embedding.")


def build(
    name: str,
    config: NetworksConfig,
    tokenizers: Mapping[str, PreTrainedTokenizerFast] | None = None,
) -> nn.Module:
    """Build one network, flows excepted, with random weights.

    Parameters
    ----------
    name : "clip", "autokl", "optimus", "vdvae" or "classifier"
    config : its sizes
    tokenizers : those it needs to read or write text; without them it takes and gives ids

    Raises
    ------
    ValueError : the configuration has no section for it
    """
    section = _section(config, name)
    tokenizers = dict(tokenizers or {})
    if name == "clip":
        return ClipEncoder(section, tokenizers.get("clip"))
    if name == "optimus":
        return Optimus(section, tokenizers)
    if name == "classifier":
        return SceneClassifier(**section)
    return {"autokl": AutoKL, "vdvae": VDVAE}[name](section)


def _section(config: NetworksConfig, name: str) -> dict:
    """Return the sizes of one network, or say that this directory has none."""
    section = getattr(config, name)
    if not section:
        raise ValueError(f"networks.json has no {name!r}: this world does not have that network")
    return section
