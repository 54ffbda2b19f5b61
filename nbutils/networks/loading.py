"""Load the frozen networks of a directory, each on first use, within a memory plan.

A networks directory holds `networks.json` (sizes), one `.safetensors` file per network and
`tokenizers/<name>/tokenizer.json`. The published networks and the miniature ones differ in these
files only. Reading is strict: a tensor too many, too few or of another shape is an error.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from nbutils import caveats
from nbutils.devices import find_device, find_precision
from nbutils.networks.autokl import AutoKL
from nbutils.networks.borrowed import Borrowed
from nbutils.networks.building import build
from nbutils.networks.classifier import SceneClassifier
from nbutils.networks.clip import ClipEncoder
from nbutils.networks.config import NetworksConfig
from nbutils.networks.inventory import FULL_PRECISION, NAMES
from nbutils.networks.memory import (
    MemoryPlan,
    choose_plan,
    choose_stay,
    explain_shortage,
    find_free,
    is_out_of_memory,
    next_smaller,
    weights_bytes,
)
from nbutils.networks.optimus import Optimus
from nbutils.networks.residents import Residents
from nbutils.networks.vdvae import VDVAE
from nbutils.networks.versatile import TextUNet

__all__ = ["FULL_PRECISION", "NAMES", "Networks", "build", "load"]

T = TypeVar("T")


def load(
    directory: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    **options: Any,
) -> Networks:
    """Open a networks directory; weights are read when a network is first asked for.

    Parameters and errors are those of `Networks`.
    """
    return Networks(directory, device, dtype, **options)


_OPEN: WeakSet[Networks] = WeakSet()


def release_all(device: torch.device) -> None:
    """Empty all networks on a GPU, so that a notebook cell that runs twice finds its memory free.

    They fill again at their next use. On the CPU they stay: there memory is seldom short.
    """
    for networks in list(_OPEN) if device.type != "cpu" else ():
        if networks.device.type == device.type:
            networks.release()


class Networks:
    """The frozen networks of one directory.

    A network is an attribute, filled from disk on first use. Under a plan that keeps less than
    everything, using one network may empty another: its tensors are given back, and come again
    with its next use. So ask for `networks.image_unet` right where it is used, and keep no network
    in a variable.

    Parameters
    ----------
    directory : with networks.json, see the module's docstring
    device : where the networks live
    dtype : of their weights; None or "auto" is float32 on a CPU and float16 on a GPU. VDVAE and
        the classifier are always float32.
    memory : "auto", chosen from what is free on the device, or a plan's name
    weights : "stored", or "random" for a rehearsal: no file is needed then, sizes are the
        published ones where there is no networks.json, and what comes out means nothing
    compiled : let torch.compile speed up the flows; their first run then takes minutes

    Raises
    ------
    FileNotFoundError : no networks.json
    ValueError : no such device, plan or weights, or a precision that the device has not
    MemoryError : too little memory even for the smallest plan
    """

    def __init__(
        self,
        directory: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = None,
        *,
        memory: str = "auto",
        weights: str = "stored",
        compiled: bool = False,
    ) -> None:
        if weights not in ("stored", "random"):
            raise ValueError(f"weights={weights!r}: choose 'stored' or 'random'")
        self.directory, self.device = Path(directory), torch.device(find_device(str(device)))
        precision = str(dtype or "auto").removeprefix("torch.")
        self.dtype: torch.dtype = getattr(torch, find_precision(precision, str(self.device)))
        self.weights, self.compiled = weights, compiled
        self.config = self._read_config()
        release_all(self.device)
        free = find_free(self.device)
        self.plan = choose_plan(memory, self.config, self.dtype, self.device, free)
        self._residents = Residents(
            self.directory, self.config, self.device, self.dtype, weights, compiled
        )
        self._unconditional: dict[str, dict[str, Tensor]] = {}
        self._twin: Networks | None = None
        _OPEN.add(self)
        if weights == "random":
            caveats.say(caveats.MEANINGLESS)

    @classmethod
    def of(cls, study: Any) -> Networks:
        """Open the networks of a `nbutils.study.Study`, as its parameters say."""
        return cls(
            study.networks,
            study.device,
            study.precision,
            memory=study.memory,
            weights=study.weights,
        )

    def __repr__(self) -> str:
        loaded = sorted(self._residents.used)
        return f"Networks({str(self.directory)!r}, {self.plan.name}, {loaded=})"

    @property
    def clip(self) -> ClipEncoder:
        """CLIP: images and captions to tokens and embeddings."""
        return self._get("clip")

    @property
    def autokl(self) -> AutoKL:
        """AutoKL: images to latents of the image flow and back."""
        return self._get("autokl")

    @property
    def optimus(self) -> Optimus:
        """Optimus: captions to latents of the text flow and back."""
        return self._get("optimus")

    @property
    def vdvae(self) -> VDVAE:
        """VDVAE: images to hierarchical latents and back."""
        return self._get("vdvae")

    @property
    def classifier(self) -> SceneClassifier:
        """The scene classifier of the miniature world."""
        return self._get("classifier")

    @property
    def image_unet(self) -> UNet2DConditionModel:
        """The image flow's U-Net; call it through `versatile.image_flow`."""
        return self._get("image_unet")

    @property
    def text_unet(self) -> TextUNet:
        """The text flow's U-Net; call it through `versatile.text_flow`.

        It shares the context mixers of the image U-Net; alone, it leaves that one's image data
        layers on disk.
        """
        return self._get("text_unet")

    @property
    def stable_unet(self) -> UNet2DConditionModel:
        """Stable Diffusion's U-Net; call it through `stable.stable_flow`."""
        return self._get("stable_unet")

    @property
    def stable_text(self) -> nn.Module:
        """Stable Diffusion's text encoder, a `stable.StableText`."""
        return self._get("stable_text")

    @property
    def stable_autokl(self) -> AutoKL:
        """Stable Diffusion's image autoencoder."""
        return self._get("stable_autokl")

    @property
    def control(self) -> nn.Module:
        """MindDiffuser's control network, a `control.ControlEncoder`."""
        return self._get("control")

    @property
    def captioner(self) -> Networks:
        """The networks that make captions: these, or a twin on the CPU where the plan says so.

        The twin computes in float32 where the free memory allows, else in bfloat16.
        """
        if not self.plan.captions_on_cpu or self.device.type == "cpu":
            return self
        if self._twin is None:
            cpu, names = torch.device("cpu"), ("optimus", "text_unet")
            fits = 1.2 * weights_bytes(self.config, names, torch.float32) <= find_free(cpu)
            self._twin = Networks(
                self.directory, cpu, "float32" if fits else "bfloat16", weights=self.weights
            )
        return self._twin

    def tokenizer(self, name: str) -> PreTrainedTokenizerFast:
        """Read the tokenizer "clip", "bert" or "gpt2"; with random weights one may be made up."""
        return self._residents.tokenizer(name)

    def unconditional(self, kind: str) -> dict[str, Tensor]:
        """Return the contexts of "no condition", computed once for each kind.

        Parameters
        ----------
        kind : image context, see `ClipEncoder.unconditional`

        Returns
        -------
        contexts : {"image": (1, T_i, d), "text": (1, T_t, d)} float32, on the CPU
        """
        if kind not in self._unconditional:
            found = self.clip.unconditional(kind)
            self._unconditional[kind] = {k: v.float().cpu() for k, v in found.items()}
        return self._unconditional[kind]

    def attempt(self, work: Callable[[MemoryPlan], T]) -> T:
        """Run some work under the plan; without memory for it, again under the next smaller one.

        Parameters
        ----------
        work : takes the plan, returns the result; it may run more than once, so it should neither
            keep networks in variables nor change anything outside

        Returns
        -------
        what `work` returned

        Raises
        ------
        MemoryError : even the smallest plan ran out
        """
        while True:
            try:
                return work(self.plan)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the except clause: the traceback held every tensor of the failed work.
            self._fall_back()

    def _fall_back(self) -> None:
        self.release()
        smaller = next_smaller(self.plan)
        if smaller is None:
            free = find_free(self.device)
            raise MemoryError(
                explain_shortage(self.plan, self.config, self.dtype, self.device, free)
            )
        warnings.warn(
            f"out of memory on {self.device} under {self.plan}: going on with {smaller}",
            stacklevel=3,
        )
        self.plan = smaller

    def borrow(self, name: str) -> Borrowed:
        """Return what stands for a network in an object that outlives a stage, such as a judge.

        Raises
        ------
        ValueError : unknown name
        """
        _check_name(name)
        return Borrowed(self, name)

    def release(self, *names: str) -> None:
        """Empty networks, all of them if none is named; their next use fills them again.

        Raises
        ------
        ValueError : unknown name
        """
        for name in names:
            _check_name(name)
        self._residents.keep(self._residents.used.difference(names) if names else set())
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    @torch.inference_mode(False)  # or weights first asked for inside it could not be used outside
    def _get(self, name: str) -> Any:
        net = self._residents.find(name)
        if isinstance(net, AutoKL):
            net.batch_size = self.plan.decode_batch
        if not self._residents.holds(name):
            stay = choose_stay(self.plan.keep, name, self._residents.used)
            if not stay.issuperset(self._residents.used):
                self.release(*(self._residents.used - stay))
            self._residents.fill(name)
        return net

    def _read_config(self) -> NetworksConfig:
        path = self.directory / "networks.json"
        if self.weights == "random" and not path.is_file():
            # Only here: the registry of published sizes stands above this module.
            from nbutils.networks.checkpoints import FULL_NETWORKS

            return FULL_NETWORKS
        return NetworksConfig.from_json(path)


def _check_name(name: str) -> None:
    if name not in NAMES:
        raise ValueError(f"network {name!r}: choose one of {NAMES}")
