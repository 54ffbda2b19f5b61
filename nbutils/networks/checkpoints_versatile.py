"""Key maps of the published four-flow Versatile Diffusion checkpoint, in all of its layouts.

The maps are rules over the architecture, not lists: they walk the same plan of blocks that builds
the networks, so a tiny network goes through the very code that converts the published files. Key
sets are compared in both directions; a file with a layer too many or too few is refused.

Two layouts are single files. In diffusers' the image U-Net and the text U-Net lie in two folders,
each with the time embedding and the context layers that the original keeps once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from nbutils.networks.checkpoints_keys import compare_keys, fit_tensors, strip_parallel
from nbutils.networks.config import VersatileConfig
from nbutils.networks.versatile import CONTEXT_KINDS, block_plan, build_flows

LAYOUT_PREFIX = {
    "v1-0": ("diffuser.",),
    "deprecated": ("model.diffusion_model.",),
    "diffusers": ("image_unet/", "text_unet/"),
}
"""First part of the keys of vd-four-flow-v1-0.pth, of its "-deprecated" twin, and of the two
folders of diffusers' layout, whose names stand before the keys."""

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_FLAT_RESNET = {
    ours.replace("conv_shortcut", "shortcut").replace("conv", "linear"): theirs
    for ours, theirs in _RESNET.items()
}


def flow_key_map(config: VersatileConfig, layout: str = "v1-0") -> dict[str, dict[str, str]]:
    """Map the keys of both flows to those of the published four-flow checkpoint.

    Parameters
    ----------
    config : sizes; any number of levels
    layout : one of `LAYOUT_PREFIX`

    Returns
    -------
    {"image_flow": {our key: original key}, "text_data": {our key: original key}}

    Raises
    ------
    ValueError : unknown layout
    """
    if layout not in LAYOUT_PREFIX:
        raise ValueError(f"layout={layout!r}: choose one of {sorted(LAYOUT_PREFIX)}")
    if layout == "diffusers":
        image, text = _image_folder_modules(config), _text_folder_modules(config)
    else:
        image, text = _image_modules(config, layout), _text_modules(config, layout)
    files = {"image_flow": dict(image), "text_data": dict(text)}
    return {
        name: {key: _rename(key, files[name]) for key in shapes}
        for name, shapes in flow_shapes(config).items()
    }


def flow_shapes(config: VersatileConfig) -> dict[str, dict[str, torch.Size]]:
    """List key and shape of every tensor of image_flow and text_data, without allocating any."""
    with torch.device("meta"):
        unet, text = build_flows(config)
    return {
        name: {key: value.shape for key, value in net.state_dict().items()}
        for name, net in {"image_flow": unet, "text_data": text}.items()
    }


def map_versatile(
    state: Mapping[str, Tensor], config: VersatileConfig
) -> dict[str, dict[str, Tensor]]:
    """Sort a four-flow checkpoint into the tensors of image_flow and text_data.

    Keys outside the diffusers (`vae.`, `ctx.`, schedules) are left aside; inside, every key must
    find its place.

    Raises
    ------
    ValueError : none of the layouts, keys missing or left over, a shape of another size, or a time
        embedding that the text U-Net does not share with the image U-Net
    """
    state = strip_parallel(state)
    layout = detect_layout(state)
    maps, shapes = flow_key_map(config, layout), flow_shapes(config)
    wanted = {theirs for mapping in maps.values() for theirs in mapping.values()}
    found = {key for key in state if key.startswith(LAYOUT_PREFIX[layout])}
    copies = _time_copies(wanted) if layout == "diffusers" else {}
    compare_keys(found, wanted | set(copies), "the four-flow checkpoint")
    _require_equal(state, copies)
    taken = {theirs: state[theirs] for mapping in maps.values() for theirs in mapping.values()}
    sizes = {
        theirs: shapes[name][ours]
        for name, mapping in maps.items()
        for ours, theirs in mapping.items()
    }
    taken = fit_tensors(taken, sizes, "the four-flow checkpoint")
    return {
        name: {ours: taken[theirs] for ours, theirs in mapping.items()}
        for name, mapping in maps.items()
    }


def _time_copies(keys: set[str]) -> dict[str, str]:
    """Pair the text U-Net's copy of the time embedding with the image U-Net's, in diffusers."""
    mark = "image_unet/time_embedding."
    return {key.replace("image_unet/", "text_unet/"): key for key in keys if key.startswith(mark)}


def _require_equal(state: Mapping[str, Tensor], copies: Mapping[str, str]) -> None:
    for copy, original in copies.items():
        one, other = state[copy], state[original]
        if not one.is_meta and not torch.equal(one, other):
            raise ValueError(
                f"{copy} differs from {original}: the two flows share one time embedding, so the "
                "folders do not belong to the same model"
            )


def detect_layout(state: Mapping[str, Tensor]) -> str:
    """Tell which of the published layouts a four-flow checkpoint has.

    Raises
    ------
    ValueError : none
    """
    for layout, prefixes in LAYOUT_PREFIX.items():
        if any(key.startswith(prefixes) for key in state):
            return layout
    known = sorted(prefix for prefixes in LAYOUT_PREFIX.values() for prefix in prefixes)
    raise ValueError(
        f"no key starts with one of {known}: this is not a Versatile Diffusion four-flow checkpoint"
    )


def _rename(key: str, modules: Mapping[str, str]) -> str:
    """Replace the longest known module prefix of a key."""
    prefix, rest = key, ""
    while prefix not in modules:
        prefix, _, last = prefix.rpartition(".")
        rest = f".{last}{rest}"
    return modules[prefix] + rest


def _image_modules(config: VersatileConfig, layout: str) -> Iterator[tuple[str, str]]:
    """Yield (our module, original module) of the image U-Net with both mixer stacks."""
    data, mixing = _image_names(config)
    for n, ours in enumerate(data):
        theirs = _locate(config, layout, "image", "data", n)
        if "resnets" in ours:
            yield from ((f"{ours}.{a}", f"{theirs}.{b}") for a, b in _RESNET.items())
        elif "samplers" in ours:
            yield f"{ours}.conv", f"{theirs}.{'op' if 'downsamplers' in ours else 'conv'}"
        else:
            yield ours, theirs
    for n, ours in enumerate(mixing):
        for kind in CONTEXT_KINDS:
            yield f"{ours}.{kind}", _locate(config, layout, kind, "context", n)
    out = _locate(config, layout, "image", "data", len(data))
    yield from (("conv_norm_out", f"{out}.0"), ("conv_out", f"{out}.2"))
    # The image diffuser owns the time embedding of both flows.
    [start] = LAYOUT_PREFIX[layout]
    time = start + ("image." if layout == "v1-0" else "") + "time_embed"
    yield from (("time_embedding.linear_1", f"{time}.0"), ("time_embedding.linear_2", f"{time}.2"))


def _text_modules(config: VersatileConfig, layout: str) -> Iterator[tuple[str, str]]:
    """Yield (our module, original module) of the text data layers."""
    steps = [kind for kind, *_ in block_plan(config) if kind in ("in", "res", "resample")]
    for n, kind in enumerate(steps):
        theirs = _locate(config, layout, "text", "data", n)
        if kind == "res":
            yield from ((f"blocks.{n}.{a}", f"{theirs}.{b}") for a, b in _FLAT_RESNET.items())
        else:
            yield f"blocks.{n}", theirs
    out = _locate(config, layout, "text", "data", len(steps))
    yield from (("norm_out", f"{out}.0"), ("linear_out", f"{out}.2"))


def _image_folder_modules(config: VersatileConfig) -> Iterator[tuple[str, str]]:
    """Yield (our module, module of diffusers' folders) of the image U-Net with both mixer stacks.

    The names are the same but for the mixers: each folder has the stack of its own kind.
    """
    data, mixing = _image_names(config)
    for name in (*data, "conv_norm_out", "conv_out", "time_embedding"):
        yield name, f"image_unet/{name}"
    for name in mixing:
        yield from ((f"{name}.{kind}", f"{kind}_unet/{name}") for kind in CONTEXT_KINDS)


def _text_folder_modules(config: VersatileConfig) -> Iterator[tuple[str, str]]:
    """Yield (our module, module of diffusers' text U-Net) of the text data layers.

    diffusers names the flat U-Net's layers as those of the image U-Net, convolutions included.
    """
    data, _ = _image_names(config)
    for n, name in enumerate(data):
        if "resnets" not in name:
            yield f"blocks.{n}", f"text_unet/{name}"
            continue
        for ours, theirs in zip(_FLAT_RESNET, _RESNET, strict=True):
            yield f"blocks.{n}.{ours}", f"text_unet/{name}.{theirs}"
    yield from (("norm_out", "text_unet/conv_norm_out"), ("linear_out", "text_unet/conv_out"))


def _image_names(config: VersatileConfig) -> tuple[list[str], list[str]]:
    """List diffusers' names of the data layers and of the mixers, in execution order."""
    data, mixing, last = ["conv_in"], [], len(config.channels) - 1

    def add(block: str, layers: int, attention: bool) -> None:
        data.extend(f"{block}.resnets.{i}" for i in range(layers))
        mixing.extend(f"{block}.attentions.{i}" for i in range(layers if attention else 0))

    for level, attention in enumerate(config.attention):
        add(f"down_blocks.{level}", config.layers_per_block, attention)
        data.extend([f"down_blocks.{level}.downsamplers.0"] if level < last else [])
    data.extend(["mid_block.resnets.0", "mid_block.resnets.1"])
    mixing.append("mid_block.attentions.0")
    for level, attention in enumerate(reversed(config.attention)):
        add(f"up_blocks.{level}", config.layers_per_block + 1, attention)
        data.extend([f"up_blocks.{level}.upsamplers.0"] if level < last else [])
    return data, mixing


def _locate(config: VersatileConfig, layout: str, flow: str, role: str, n: int) -> str:
    """Name the n-th data or context layer of a diffuser in the original checkpoint."""
    if layout == "v1-0":
        return f"diffuser.{flow}.{role}_blocks.{n}.0"
    data, context = _grouped_names(config)
    return f"model.diffusion_model.unet_{flow}.{(data if role == 'data' else context)[n]}"


def _grouped_names(config: VersatileConfig) -> tuple[list[str], list[str]]:
    """List the deprecated layout's names of the data and context layers, in execution order.

    Each kept skip connection closes a group of `input_blocks`, each join opens one of
    `output_blocks`; the layers between the last of the one and the first of the other are
    `middle_block`.
    """
    plan = block_plan(config)
    data, context, saves, joins, place = [], [], 0, 0, 0
    for kind, *_ in plan:
        if kind in ("save", "load"):
            saves, joins, place = saves + (kind == "save"), joins + (kind == "load"), 0
            continue
        down = saves < plan.count(("save",))
        up = f"output_blocks.{joins - 1}" if joins else "middle_block"
        block = f"input_blocks.{saves}" if down else up
        (context if kind == "mix" else data).append(f"{block}.{place}")
        place += 1
    return [*data, "out"], context
