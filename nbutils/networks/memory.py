"""Memory plans: what stays on the device together, and how many images go through at once.

A plan is chosen by count: bytes of the weights that it keeps together, plus activations per image
scaled from the published sizes (512 pixels in 16 bits: 141 MiB for a guided pair in the U-Net,
384 MiB to decode with AutoKL), plus what CUDA takes for itself. These are counts and allocation
traces on the meta device, not measurements on a GPU.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import psutil
import torch

from nbutils.networks.config import NetworksConfig
from nbutils.networks.inventory import FULL_PRECISION, NAMES, PARTS, available, parts_of

GIB = 2**30


@dataclass(frozen=True)
class MemoryPlan:
    """How the networks share a device.

    Parameters
    ----------
    name : "4GB", "8GB", "15GB" or "more"
    keep : "one" (a flow alone, or the encoders together), "flow" (a flow with its encoders and
        decoders) or "all" networks
    image_batch : images that pass through a flow at once, at most
    decode_batch : images that AutoKL encodes or decodes at once, at most
    split_guidance : run the two halves of guidance one after the other
    captions_on_cpu : run the text flow and Optimus' decoder on the CPU
    note : what the plan does, in words
    """

    name: str
    keep: str
    image_batch: int
    decode_batch: int
    split_guidance: bool
    captions_on_cpu: bool
    note: str

    @property
    def encode_batch(self) -> int:
        """Images or captions that pass through an encoder at once, at most."""
        return 2 * self.image_batch

    def __str__(self) -> str:
        return f"memory plan {self.name}: {self.note}"


PLANS = (
    MemoryPlan(
        "4GB", "one", 1, 1, True, True, "one stage at a time, single images, captions on the CPU"
    ),
    MemoryPlan("8GB", "flow", 8, 2, False, False, "one flow at a time, up to 8 images at once"),
    MemoryPlan("15GB", "all", 16, 4, False, False, "everything resident, up to 16 images at once"),
    MemoryPlan("more", "all", 32, 16, False, False, "everything resident, up to 32 images at once"),
)
"""All plans, smallest first."""

_SEEING = {"clip", "autokl", "vdvae"}
_STABLE = {"stable_text", "stable_autokl", "control", "clip"}
GROUPS: dict[str, tuple[set[str], ...]] = {
    "one": (
        {*_SEEING, "optimus"},
        _STABLE,
        {"image_unet"},
        {"text_unet"},
        {"stable_unet"},
    ),
    "flow": (
        {*_SEEING, "optimus"},
        {*_SEEING, "image_unet"},
        {"clip", "optimus", "text_unet"},
        {*_STABLE, "stable_unet"},
    ),
    "all": (set(NAMES),),
}
"""Networks that may be on the device together, by `MemoryPlan.keep`; the classifier always may."""


def choose_stay(keep: str, name: str, present: Iterable[str]) -> set[str]:
    """Return the networks that may stay on the device when `name` is needed there.

    Of the groups that hold `name`, the one that lets most of those present stay.
    """
    groups = [group | {"classifier"} for group in GROUPS[keep] if name in group]
    present = set(present)
    stays = [present & group for group in groups] or [present]
    return max(stays, key=len) | {name}


# --- counting


def weights_bytes(config: NetworksConfig, names: Iterable[str], dtype: torch.dtype) -> int:
    """Count the bytes of the weights of networks, without allocating any.

    Parameters
    ----------
    config : sizes
    names : networks; what two of them share is counted once
    dtype : of the weights; VDVAE and the classifier are always float32
    """
    counts = count_numbers(config)
    total = 0
    for part in {part for name in names for part in parts_of(name)}:
        kept = torch.float32 if PARTS[part].network in FULL_PRECISION else dtype
        total += counts[part] * kept.itemsize
    return total


def count_numbers(config: NetworksConfig) -> dict[str, int]:
    """Count the weights of each part of the networks of a configuration."""
    return dict(_count(json.dumps(asdict(config), sort_keys=True)))


@functools.lru_cache(maxsize=8)
def _count(text: str) -> tuple[tuple[str, int], ...]:
    # Only here: whoever plans work in batches should not wait for the networks' libraries.
    from nbutils.networks.building import build, empty_weights

    config = NetworksConfig.from_dict(json.loads(text))
    names, sizes = available(config), {}
    for name in names:
        with empty_weights():
            sizes[name] = {k: v.numel() for k, v in build(name, config).state_dict().items()}
    return tuple(
        (part, sum(n for key, n in sizes[spec.network].items() if spec.holds(key)))
        for part, spec in PARTS.items()
        if spec.network in names
    )


def count_needs(
    plan: MemoryPlan, config: NetworksConfig, dtype: torch.dtype, device: torch.device
) -> int:
    """Return about how many bytes a plan needs on a device."""
    names, elsewhere = set(available(config)), set()
    if plan.captions_on_cpu and device.type != "cpu":
        elsewhere = {"text_unet"}
    groups = [names & (group | {"classifier"}) - elsewhere for group in GROUPS[plan.keep]]
    most = max(
        weights_bytes(config, group, dtype) + _count_work(plan, config, group, dtype)
        for group in groups
    )
    own = 0.8 * GIB if device.type == "cuda" else 0  # CUDA's context and cuDNN's workspace
    return int(1.1 * most + own)


def _count_work(
    plan: MemoryPlan, config: NetworksConfig, group: set[str], dtype: torch.dtype
) -> int:
    """Count the bytes of the activations of the largest network of a group."""
    pair, images = _guided_pair(config, dtype), plan.decode_batch * _decoding(config, dtype)
    painting = plan.image_batch * pair // (2 if plan.split_guidance else 1)
    return max(
        painting if {"image_unet", "stable_unet"} & group else 0,
        images if {"autokl", "stable_autokl"} & group else 0,
    )


def _guided_pair(config: NetworksConfig, dtype: torch.dtype) -> int:
    """Bytes of a U-Net's activations for one image with guidance; 141 MiB when published."""
    units = [config.versatile, *([config.stable_unet] if config.stable else [])]
    numbers = max(unit.latent_size**2 * unit.channels[0] for unit in units)
    return int(56.4 * numbers * dtype.itemsize)


def _decoding(config: NetworksConfig, dtype: torch.dtype) -> int:
    """Bytes of AutoKL's activations when it decodes one image; 384 MiB when published."""
    sections = [config.autokl, *([config.stable["autokl"]] if config.stable else [])]
    numbers = max(one["sample_size"] ** 2 * one["block_out_channels"][0] for one in sections)
    return 6 * numbers * dtype.itemsize


def find_free(device: torch.device) -> int:
    """Return the bytes that are free for the networks on a device."""
    if device.type == "cuda":
        place = torch.cuda.current_device() if device.index is None else device.index
        free, total = torch.cuda.mem_get_info(place)
        held, used = torch.cuda.memory_reserved(place), torch.cuda.memory_allocated(place)
        allowed = int(total * torch.cuda.get_per_process_memory_fraction(place)) - used
        return min(free + held - used, allowed)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return psutil.virtual_memory().available


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether a device's allocator, or the CPU's, found no memory."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


# --- choosing


def choose_plan(
    name: str,
    config: NetworksConfig,
    dtype: torch.dtype,
    device: torch.device | str,
    free_bytes: int,
) -> MemoryPlan:
    """Choose the largest plan that fits, or take the one that is named.

    Parameters
    ----------
    name : "auto", or a plan's name, which is then taken as it is
    config, dtype : sizes and precision of the networks
    device : where they go
    free_bytes : what is free there

    Raises
    ------
    ValueError : no such plan
    MemoryError : "auto", and even the smallest plan does not fit
    """
    device, named = torch.device(device), {plan.name: plan for plan in PLANS}
    if name in named:
        return named[name]
    if name != "auto":
        raise ValueError(f"memory={name!r}: choose 'auto' or one of {', '.join(named)}")
    for plan in reversed(PLANS):
        needs = count_needs(plan, config, dtype, device)
        if needs <= free_bytes:
            found = f"needs {needs / GIB:.1f} of {free_bytes / GIB:.1f} GiB free, by count"
            return replace(plan, note=f"{plan.note} ({found})")
    raise MemoryError(explain_shortage(PLANS[0], config, dtype, device, free_bytes))


def next_smaller(plan: MemoryPlan) -> MemoryPlan | None:
    """Return the plan below one, or None where there is none."""
    place = [one.name for one in PLANS].index(plan.name)
    return PLANS[place - 1] if place else None


def explain_shortage(
    plan: MemoryPlan,
    config: NetworksConfig,
    dtype: torch.dtype,
    device: torch.device,
    free_bytes: int,
) -> str:
    """Say in one sentence that a plan does not fit, and what to do."""
    needs = count_needs(plan, config, dtype, device)
    precision = str(dtype).removeprefix("torch.")
    remedies = ["close other programs"]
    remedies += ["take precision='float16'"] if dtype == torch.float32 else []
    remedies += ["run on the CPU with device='cpu'"] if device.type != "cpu" else []
    return (
        f"{device}: {free_bytes / GIB:.1f} GiB are free and the smallest memory plan, {plan.name}, "
        f"needs about {needs / GIB:.1f} GiB in {precision}; {', or '.join(remedies)}"
    )
