"""Feature readers: the frozen networks through which reconstructions are compared.

Published measures look through AlexNet, Inception v3, EfficientNet-B1 and SwAV's ResNet-50, which
are torchvision's and a hub's, and through CLIP ViT-L/14. A networks directory that brings an
independent classifier of its own is judged through that one; its measures then say that they stand
in for the published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nbutils.networks.weights.folder import default_folder

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class MetricNetwork:
    """A published metric network.

    Parameters
    ----------
    builder : function of `torchvision.models`
    file : name of its weights, as their publisher calls them; torchvision's carry the first eight
        digits of their SHA-256
    layers : nodes that some paper compares
    options : of the builder
    has_classes : False where the weights come without the last, classifying layer
    """

    builder: str
    file: str
    layers: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    has_classes: bool = True


# torchvision gives Inception its input in another scaling where it is built with weights; who
# builds it first and fills it later has to ask for that.
METRIC_NETWORKS: dict[str, MetricNetwork] = {
    "alexnet": MetricNetwork(
        "alexnet",
        "alexnet-owt-7be5be79.pth",
        ("features.4", "features.5", "features.11", "features.12", "classifier.5"),
    ),
    "inception": MetricNetwork(
        "inception_v3",
        "inception_v3_google-0cc3c7bd.pth",
        ("avgpool", "flatten"),
        {"transform_input": True, "init_weights": False},
    ),
    "efficientnet_v1": MetricNetwork(
        "efficientnet_b1", "efficientnet_b1_rwightman-bac287d4.pth", ("avgpool",)
    ),
    "efficientnet_v2": MetricNetwork(
        "efficientnet_b1", "efficientnet_b1-c27df63c.pth", ("avgpool",)
    ),
    "swav": MetricNetwork(
        "resnet50", "swav_800ep_pretrain.pth.tar", ("avgpool",), has_classes=False
    ),
}
"""Name -> network. The two EfficientNets differ in their weights only."""


class Reader(Protocol):
    """What reads features off images.

    Attributes
    ----------
    size : side of the images it must get, pixels; None where any size will do
    """

    size: int | None

    def read(self, pixels: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Read layers, (n, ...) each, of images (n, 3, s, s) in [0, 1]."""


def build_metric_network(name: str) -> nn.Module:
    """Build a metric network with random weights, in evaluation mode.

    Parameters
    ----------
    name : of `METRIC_NETWORKS`

    Raises
    ------
    ValueError
        If there is no such network.
    ModuleNotFoundError
        If torchvision is not installed.
    """
    if name not in METRIC_NETWORKS:
        raise ValueError(f"network={name!r}: choose from {', '.join(METRIC_NETWORKS)}.")
    try:
        from torchvision import models
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "The published metric networks are torchvision's, which is not installed: "
            "`uv pip install 'nbutils[metrics]'` takes the build that fits your torch."
        ) from None
    spec = METRIC_NETWORKS[name]
    net = getattr(models, spec.builder)(weights=None, **spec.options)
    if not spec.has_classes:
        net.fc = nn.Identity()
    return net.eval().requires_grad_(False)


def load_metric_network(name: str, folder: str | Path | None = None) -> nn.Module:
    """Build a metric network and fill it with its published weights.

    Parameters
    ----------
    name : of `METRIC_NETWORKS`
    folder : where the weights lie; by default that of all original weights

    Raises
    ------
    ValueError, ModuleNotFoundError
        As `build_metric_network`; also if the file holds another network.
    FileNotFoundError
        If the weights are not there.
    """
    with torch.device("meta"):  # no time for random numbers that the file replaces
        net = build_metric_network(name)
    path = Path(folder or default_folder()) / METRIC_NETWORKS[name].file
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {name} is one of the networks of the published measures; get it "
            "with `python -m nbutils weights fetch --for metrics`, or put the file there."
        )
    stored = torch.load(path, map_location="cpu", weights_only=True)
    stored = {key.removeprefix("module."): value for key, value in stored.items()}
    if not METRIC_NETWORKS[name].has_classes:  # SwAV's own heads, which no measure uses
        heads = ("projection_head.", "prototypes.", "fc.")
        stored = {key: value for key, value in stored.items() if not key.startswith(heads)}
    try:
        net.load_state_dict(stored, assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not hold {name} ({str(error).splitlines()[1].strip()[:120]}); get the "
            "file again."
        ) from None
    return net.requires_grad_(False)


class TorchvisionReader:
    """Reads one of `METRIC_NETWORKS`; `net` is what `load_metric_network` returns.

    Parameters
    ----------
    net : the network
    device : where it computes, always in float32: it is a measuring instrument
    """

    size = None

    def __init__(self, net: nn.Module, device: str | torch.device = "cpu") -> None:
        self.net, self.device = net.to(device), torch.device(device)
        self._extractors: dict[tuple[str, ...], nn.Module] = {}

    @torch.no_grad()
    def read(self, pixels: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Read layers by their names in torchvision's graph, once through the network."""
        from torchvision.models.feature_extraction import create_feature_extractor

        key = tuple(layers)
        if key not in self._extractors:  # stops after the last layer asked for
            self._extractors[key] = create_feature_extractor(
                self.net, return_nodes=list(key), suppress_diff_warning=True
            )
        pixels = normalise(pixels.to(self.device), IMAGENET_MEAN, IMAGENET_STD)
        found = self._extractors[key](pixels)
        return {layer: found[layer].float().cpu() for layer in layers}


class ClipReader:
    """Reads the CLIP of a networks directory.

    Its layers are "embedding", the projected class token, and "hidden k/m", all tokens after that
    part of the blocks: of ViT-L/14's 24, "hidden 1/4" is transformers' ``hidden_states[6]``.

    Parameters
    ----------
    networks : what `nbutils.networks.loading.load` returns
    """

    def __init__(self, networks: Any) -> None:
        self.networks = networks
        self.size = networks.config.clip["vision_config"]["image_size"]

    @torch.no_grad()
    def read(self, pixels: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Read layers of images of CLIP's own size."""
        clip = self.networks.clip
        weight = clip.visual_projection.weight
        processor = clip.processor
        pixels = normalise(pixels, processor.image_mean, processor.image_std)
        pixels = pixels.to(weight.device, weight.dtype)
        found = clip.vision_model(pixel_values=pixels, output_hidden_states=True)
        hidden = found.hidden_states
        read = {}
        for layer in layers:
            if layer == "embedding":
                pooled = clip.vision_model.post_layernorm(found.last_hidden_state[:, 0])
                read[layer] = clip.visual_projection(pooled)
            else:
                part, whole = map(int, layer.removeprefix("hidden ").split("/"))
                read[layer] = hidden[part * (len(hidden) - 1) // whole]
        return {layer: value.float().cpu() for layer, value in read.items()}


class ClassifierReader:
    """Reads the independent classifier of a networks directory: "early", "middle", "late".

    Parameters
    ----------
    networks : what `nbutils.networks.loading.load` returns, of a directory with a classifier
    """

    def __init__(self, networks: Any) -> None:
        self.networks = networks
        self.size = networks.config.classifier["image_size"]

    @torch.no_grad()
    def read(self, pixels: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Read layers of images of the classifier's own size."""
        classifier = self.networks.classifier
        weight = classifier.category.weight
        found = classifier((2 * pixels - 1).to(weight.device, weight.dtype))["features"]
        named = dict(zip(("early", "middle", "late"), found, strict=True))
        return {layer: named[layer].float().cpu() for layer in layers}


class Readers:
    """The readers that a networks directory is judged through, each made on first use.

    Parameters
    ----------
    networks : what `nbutils.networks.loading.load` returns
    folder : of the published metric networks' weights; by default that of all original weights

    Attributes
    ----------
    stand_ins : whether the directory's own classifier stands in for the published networks
    """

    def __init__(self, networks: Any, folder: str | Path | None = None) -> None:
        self.networks, self.folder = networks, folder
        self.stand_ins = bool(networks.config.classifier)
        self._made: dict[str, Reader] = {}

    def __getitem__(self, name: str) -> Reader:
        """Return the reader "clip", "classifier", or one of `METRIC_NETWORKS`."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Reader:
        if name == "clip":
            return ClipReader(self.networks)
        if name == "classifier":
            return ClassifierReader(self.networks)
        if getattr(self.networks, "weights", "stored") == "random":  # a rehearsal needs no file
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                net = build_metric_network(name)
        else:
            net = load_metric_network(name, self.folder)
        return TorchvisionReader(net, self.networks.device)


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract a mean from each colour and divide it by a standard deviation; (n, 3, h, w)."""
    mean, std = (torch.tensor(x, device=pixels.device).view(1, 3, 1, 1) for x in (mean, std))
    return (pixels - mean) / std
