"""The one list of published files: what each is, who needs it, whose it is, and how to know it.

Where the facts come from (looked up on 2026-11-21, in stored copies of these pages; no file was
opened): sizes, SHA-256 and renamings of `shi-labs/versatile-diffusion` from its commits 2255022,
33ed3c9, 86cc214 and 15d7f7d and from its file pages; of `CompVis/stable-diffusion-v1-4` from the
listing of commit 07c396e and the page of its `vae`; of OpenAI's CLIPs and of GPT-2's tokenizer from
several public manifests that agree; VDVAE's address from the README of Brain-Diffuser. Where no
source gives a SHA-256 there is None: it is recorded at the first fetch and enforced from then on.
Where only a rounded size is known, `exact` is False.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

SYSTEMS = ("brain_diffuser", "unibrain", "takagi", "minddiffuser", "metrics")
"""Systems by the names of their modules, and the published measures: who needs which weights."""
FLOW_FOLDERS = ("image_unet", "text_unet")
"""Folders of Versatile Diffusion's two flows in diffusers' layout; one is of no use alone."""
_VD = "shi-labs/versatile-diffusion"
_VD_REVISION = "2926f8e11ea526b562cd592b099fcf9c2985d0b7"
_SD = "CompVis/stable-diffusion-v1-4"
_SD_REVISION = "07c396e9608f32aa691c224176a0f28406abbbbe"
_CLIP_L, _CLIP_B = "openai/clip-vit-large-patch14", "openai/clip-vit-base-patch32"
_CLIP_L_REVISION = "32bd64288804d66eefd0ccbe215aa642df71cc41"
_MIT_CLIP = "MIT (of openai/CLIP; the page of the weights names none)"
_RAIL = "CreativeML Open RAIL-M (forbids certain uses; read it)"
_TORCHVISION = "https://download.pytorch.org/models"
_BSD = "BSD-3-Clause (of torchvision; trained on ImageNet)"
_BOTH = ("brain_diffuser", "unibrain")
_STABLE = ("takagi", "minddiffuser")
_METRICS = ("metrics",)


@dataclass(frozen=True)
class Weight:
    """One published file.

    Attributes
    ----------
    name : what we call it
    what : what it is
    network : what it is converted into, as in `nbutils.networks.checkpoints.SOURCES`; empty where
        it is read as it is, by `nbutils.metrics.readers`
    systems : of `SYSTEMS`, those that need it
    notebooks : numbers of the notebooks that need it in the world of NSD
    licence : its terms
    source : repository on the Hugging Face hub, or address of a folder
    path : below the source
    revision : commit of the repository; None where the source has no versions
    size : bytes
    sha256 : of the content, or its beginning where only that is published (torchvision writes it
        into its file names); None where no public source gives it
    exact : whether `size` is known to the byte
    renamed : what else this very file was or is called
    instead_of : the file that it can stand for; then it is fetched only by name
    """

    name: str
    what: str
    network: str
    systems: tuple[str, ...]
    notebooks: tuple[str, ...]
    licence: str
    source: str
    path: str
    revision: str | None
    size: int
    sha256: str | None
    exact: bool = True
    renamed: str = ""
    instead_of: str | None = None

    @property
    def on_hub(self) -> bool:
        """Whether it is on the Hugging Face hub."""
        return "://" not in self.source

    @property
    def file(self) -> str:
        """Name of the file itself."""
        return PurePosixPath(self.path).name

    @property
    def place(self) -> str:
        """Where it lies below the folder of originals: as in a copy of its repository."""
        if not self.on_hub:
            return self.path
        return f"{PurePosixPath(self.source).name}/{self.path}"

    @property
    def page(self) -> str:
        """Where people read about it."""
        return f"https://huggingface.co/{self.source}" if self.on_hub else self.source


WEIGHTS = (
    Weight(
        "vd-fp16-deprecated", "Versatile Diffusion's four flows, 16-bit, first layout of names",
        "versatile", _BOTH, ("00", "04", "05", "07"), "MIT",
        _VD, "pretrained_pth/vd-four-flow-v1-0-fp16-deprecated.pth", _VD_REVISION, 6_664_692_139,
        "b7814655665a98a74d723025c7453503db926741e785486741f4b4f06af6664b",
        renamed="this file is vd-four-flow-v1-0-fp16.pth of November 2022 renamed in February 2023 "
        "(the same SHA-256); it is the one that Brain-Diffuser used",
    ),
    Weight(
        "vd-fp16", "Versatile Diffusion's four flows, 16-bit, second layout",
        "versatile", _BOTH, ("00", "04", "05", "07"), "MIT",
        _VD, "pretrained_pth/vd-four-flow-v1-0-fp16.pth", _VD_REVISION, 5_133_104_945,
        "47eae01cad5ab095c15e12cfec7c0365bad653d00ff5e228c9f558ba817f786d",
        renamed="until February 2023 another file had this name: vd-fp16-deprecated",
        instead_of="vd-fp16-deprecated",
    ),
    Weight(
        "vd-deprecated", "Versatile Diffusion's four flows, 32-bit, first layout of names",
        "versatile", _BOTH, ("00", "04", "05", "07"), "MIT",
        _VD, "pretrained_pth/vd-four-flow-v1-0-deprecated.pth", _VD_REVISION, 13_328_086_079,
        "cf3261e4b14eaedf842dcb69bc345532abecc8ca8212d28d86aef241fbb13114",
        renamed="this file is vd-four-flow-v1-0.pth of November 2022 renamed in February 2023 (the "
        "same SHA-256), and that was vd-official.pth before, as the authors' README says",
        instead_of="vd-fp16-deprecated",
    ),
    Weight(
        "vd", "Versatile Diffusion's four flows, 32-bit, second layout",
        "versatile", _BOTH, ("00", "04", "05", "07"), "MIT",
        _VD, "pretrained_pth/vd-four-flow-v1-0.pth", _VD_REVISION, 10_265_764_113,
        "05313cbe0467e6543d0151b7c6f5adcac4478647162743374904cdfa6a63376d",
        renamed="until February 2023 another file had this name: vd-deprecated",
        instead_of="vd-fp16-deprecated",
    ),
    Weight(
        "vd-image-unet", "Versatile Diffusion in diffusers' layout: image U-Net (needs the next)",
        "versatile", _BOTH, ("00", "04", "05", "07"), "MIT",
        _VD, "image_unet/diffusion_pytorch_model.bin", _VD_REVISION, 3_440_000_000,
        "3899338e2c2a00a02e6ad0e33933da4fed163bf7a16187522c1019c82519cff2",
        exact=False, instead_of="vd-fp16-deprecated",
    ),
    Weight(
        "vd-text-unet", "Versatile Diffusion in diffusers' layout: text U-Net (needs the last)",
        "versatile", _BOTH, ("00", "04", "05", "07"), "MIT",
        _VD, "text_unet/diffusion_pytorch_model.bin", _VD_REVISION, 6_840_000_000,
        "dab7a69b6d6f52cd90717966d93ca30d13004d0eaf2994e1f0fe526473ac827c",
        exact=False, instead_of="vd-fp16-deprecated",
    ),
    Weight(
        "kl-f8", "AutoKL, the image autoencoder of Versatile Diffusion",
        "autokl", _BOTH, ("00", "02", "04", "05", "07"), "MIT",
        _VD, "pretrained_pth/kl-f8.pth", _VD_REVISION, 334_701_031,
        "845b3a472ba352727aa0f7bd8b8ee3ef95f54001215fbd80874f32c236efdb1a",
    ),
    Weight(
        "vd-vae", "the same autoencoder in diffusers' layout",
        "autokl", _BOTH, ("00", "02", "04", "05", "07"), "MIT",
        _VD, "vae/diffusion_pytorch_model.bin", _VD_REVISION, 335_000_000, None,
        exact=False, renamed="kl-f8 under diffusers' names, by its place (not compared)",
        instead_of="kl-f8",
    ),
    Weight(
        "optimus", "Optimus, the sentence autoencoder (BERT and GPT-2) of Versatile Diffusion",
        "optimus", ("unibrain",), ("00", "02", "05", "07"), "MIT",
        _VD, "pretrained_pth/optimus-vae.pth", _VD_REVISION, 1_016_873_389,
        "5f82e8759f7ecf1e20397f0c70b6b0b5d84149cdc1875be1016142c0de053d69",
    ),
    Weight(
        "vdvae", "the very deep autoencoder of ImageNet at 64 x 64 pixels, averaged weights",
        "vdvae", ("brain_diffuser",), ("02", "04", "07"), "MIT (of openai/vdvae)",
        "https://openaipublic.blob.core.windows.net/very-deep-vaes-assets/vdvae-assets-2",
        "imagenet64-iter-1600000-model-ema.th", None, 500_000_000, None, exact=False,
    ),
    Weight(
        "clip", "CLIP ViT-L/14: images and captions to tokens",
        "clip", _BOTH, ("00", "02", "03", "04", "05", "06", "07"), _MIT_CLIP,
        _CLIP_L, "model.safetensors", _CLIP_L_REVISION, 1_710_540_580,
        "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
    ),
    Weight(
        "clip-tokenizer", "CLIP's words",
        "tokenizers/clip", SYSTEMS, ("00", "02", "03", "04", "05", "06", "07"), _MIT_CLIP,
        _CLIP_L, "tokenizer.json", _CLIP_L_REVISION, 2_224_003,
        "a83e0809aa4c3af7208b2df632a7a69668c6d48775b3c3fe4e1b1199d1f8b8f4",
    ),
    Weight(
        "bert-tokenizer", "BERT's words (cased), which Optimus reads with",
        "tokenizers/bert", ("unibrain",), ("00", "02", "05", "07"), "Apache-2.0",
        "google-bert/bert-base-cased", "tokenizer.json", "cd5ef92a9fb2f889e972770a36d4ed042daf221e",
        436_000, None, exact=False,
    ),
    Weight(
        "gpt2-tokenizer", "GPT-2's words, which Optimus writes with",
        "tokenizers/gpt2", ("unibrain",), ("00", "02", "05", "07"), "MIT",
        "openai-community/gpt2", "tokenizer.json", "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        1_355_256, "8414cab924d8b9b33013f0d221c5862f365ee9be39c5c2bfae8a5a9e970478a6",
    ),
    Weight(
        "sd-unet", "Stable Diffusion 1.4: U-Net",
        "stable_unet", _STABLE, ("08", "09", "10"), _RAIL,
        _SD, "unet/diffusion_pytorch_model.safetensors", _SD_REVISION, 3_440_000_000, None,
        exact=False,
    ),
    Weight(
        "sd-text", "Stable Diffusion 1.4: text tower",
        "stable_text", _STABLE, ("08", "09", "10"), _RAIL,
        _SD, "text_encoder/model.safetensors", _SD_REVISION, 492_000_000, None,
        exact=False, renamed="its page says: the text tower of clip, unchanged (not compared)",
    ),
    Weight(
        "sd-vae", "Stable Diffusion 1.4: image autoencoder",
        "stable_autokl", _STABLE, ("08", "09", "10"), _RAIL,
        _SD, "vae/diffusion_pytorch_model.safetensors", _SD_REVISION, 334_643_276,
        "a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c",
        renamed="kl-f8 under diffusers' names, as the authors of sdxl-vae say (not compared)",
    ),
    Weight(
        "clip-b32", "CLIP ViT-B/32, whose image tower is MindDiffuser's control network",
        "control", ("minddiffuser",), ("09",), _MIT_CLIP,
        _CLIP_B, "pytorch_model.bin", "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", 605_247_071,
        "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
    ),
    Weight(
        "alexnet", "AlexNet, two layers of which measure early and middle features",
        "", _METRICS, ("06",), _BSD, _TORCHVISION, "alexnet-owt-7be5be79.pth", None,
        244_400_000, "7be5be79", exact=False,
    ),
    Weight(
        "inception", "Inception v3", "", _METRICS, ("06",), _BSD,
        _TORCHVISION, "inception_v3_google-0cc3c7bd.pth", None,
        108_900_000, "0cc3c7bd", exact=False,
    ),
    Weight(
        "efficientnet-v1", "EfficientNet-B1, first weights (Brain-Diffuser's)",
        "", _METRICS, ("06",), _BSD,
        _TORCHVISION, "efficientnet_b1_rwightman-bac287d4.pth", None,
        31_500_000, "bac287d4", exact=False,
    ),
    Weight(
        "efficientnet-v2", "EfficientNet-B1, second weights (MindEye's)",
        "", _METRICS, ("06",), _BSD,
        _TORCHVISION, "efficientnet_b1-c27df63c.pth", None,
        31_500_000, "c27df63c", exact=False,
    ),
    Weight(
        "swav", "SwAV's ResNet-50, 800 epochs", "", _METRICS, ("06",), "CC BY-NC 4.0 (of swav)",
        "https://dl.fbaipublicfiles.com/deepcluster", "swav_800ep_pretrain.pth.tar", None,
        113_000_000, None, exact=False,
    ),
)  # fmt: skip
"""In the order in which they are preferred where several give the same network."""


def find(name: str) -> Weight:
    """Return the weights called `name`.

    Raises
    ------
    ValueError : there are none; near names are offered
    """
    names = [weight.name for weight in WEIGHTS]
    if name in names:
        return WEIGHTS[names.index(name)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"weights {name!r} are not known: {hint}there are {', '.join(names)}")


def choose(names: Iterable[str] = (), system: str | None = None) -> tuple[Weight, ...]:
    """Return the weights that are named, or those that a system needs, or those of all systems.

    Raises
    ------
    ValueError : a name or the system is not known
    """
    if system is not None and system not in SYSTEMS:
        raise ValueError(f"system {system!r}: choose one of {', '.join(SYSTEMS)}")
    named = tuple(dict.fromkeys(find(name) for name in names))
    if named and system is None:
        return named
    needed = (one for one in WEIGHTS if one.instead_of is None)
    if system is not None:
        needed = (one for one in needed if system in one.systems)
    return tuple(dict.fromkeys((*named, *needed)))
