"""Convert published checkpoints into a networks directory, once, without executing a pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from nbutils.networks.checkpoints_parts import (
    CLIP_VIT_L14,
    KL_F8,
    OPTIMUS_VD,
    VDVAE_IMAGENET64,
    map_autokl,
    map_clip,
    map_control,
    map_optimus,
    map_stable_text,
    map_stable_unet,
    map_vdvae,
)
from nbutils.networks.checkpoints_reading import read_source
from nbutils.networks.checkpoints_versatile import map_versatile
from nbutils.networks.config import FULL, NetworksConfig
from nbutils.networks.control import VIT_B_32
from nbutils.networks.inventory import FULL_PRECISION
from nbutils.networks.stable import STABLE_V1_4
from nbutils.networks.weights.faults import find_fault

FULL_NETWORKS = NetworksConfig(
    clip=CLIP_VIT_L14,
    autokl=KL_F8,
    optimus=OPTIMUS_VD,
    vdvae=VDVAE_IMAGENET64,
    versatile=FULL,
    stable=STABLE_V1_4,
    control=VIT_B_32,
)
"""The published networks."""

STABLE = ("stable_unet", "stable_text", "stable_autokl")
TOKENIZERS = ("tokenizers/clip", "tokenizers/bert", "tokenizers/gpt2")
SOURCES = ("versatile", "clip", "autokl", "optimus", "vdvae", *STABLE, "control", *TOKENIZERS)
"""What a networks directory is made of: nine checkpoints and three tokenizer.json files."""

_MAPS: dict[str, Callable[[Mapping[str, Tensor], Mapping], dict[str, Tensor]]] = {
    "clip": map_clip,
    "autokl": map_autokl,
    "optimus": map_optimus,
    "vdvae": map_vdvae,
    "stable_unet": map_stable_unet,
    "stable_text": map_stable_text,
    "stable_autokl": map_autokl,
    "control": map_control,
}


def convert_directory(
    sources: Mapping[str, str | Path],
    directory: str | Path,
    config: NetworksConfig = FULL_NETWORKS,
    dtype: torch.dtype | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Write a networks directory from published files.

    Every file is written whole or not at all, networks.json last. Sources may come in several
    calls; a network converted again is replaced.

    Parameters
    ----------
    sources : {name: file or folder}, names as in `SOURCES`. "versatile": vd-four-flow-v1-0.pth, its
        "-deprecated" twin, or the folder of diffusers' layout (with image_unet and text_unet);
        "clip": a CLIP ViT-L/14 in transformers' format; "autokl": kl-f8.pth, or a `vae` folder;
        "optimus": optimus-vae.pth; "vdvae": imagenet64-iter-1600000-model-ema.th; "stable_unet",
        "stable_text", "stable_autokl": files of Stable Diffusion 1.4 in diffusers' format, or
        "stable": its folder, which stands for the three; "control": a CLIP ViT-B/32 in
        transformers' format; "tokenizers/...": tokenizer.json of CLIP, of bert-base-cased and of
        GPT-2. Any checkpoint may also be the folder that it lies in
    directory : to write into
    config : sizes of the networks in the files
    dtype : of the written weights; None keeps the source's, as VDVAE always does
    say : gets a sentence for every network

    Returns
    -------
    directory

    Raises
    ------
    ValueError
        If a source is not known, a checkpoint does not fit `config`, a file is damaged or holds
        more than tensors, or the directory holds networks of another size.
    FileNotFoundError : a source is not there
    """
    directory, sources = Path(directory), _spread(sources)
    unknown, absent = set(sources) - set(SOURCES), _absent(sources)
    if unknown:
        raise ValueError(f"sources {sorted(unknown)} are not known: choose from {SOURCES}")
    if absent:
        raise FileNotFoundError(f"{absent[0]} is missing: download it first or give its real place")
    _require_same_sizes(directory / "networks.json", config)
    for name, source in sources.items():
        if say is not None:
            say(f"converting {name} from {source}")
        _convert_source(name, source, directory, config, dtype)
    directory.mkdir(parents=True, exist_ok=True)
    config.to_json(directory / "networks.json")
    return directory


def _convert_source(
    name: str, source: Path, directory: Path, config: NetworksConfig, dtype: torch.dtype | None
) -> None:
    if name in TOKENIZERS:
        _copy_tokenizer(source, directory / name / "tokenizer.json")
        return
    for file, tensors in convert(name, read_source(name, source), config).items():
        kept = None if name in FULL_PRECISION else dtype
        write_state(tensors, directory / f"{file}.safetensors", kept, source=source.name)


def convert(
    name: str, state: Mapping[str, Tensor], config: NetworksConfig
) -> dict[str, dict[str, Tensor]]:
    """Rename the tensors of one published checkpoint and check that they fill the network exactly.

    A prefix `module.` before every key, which parallel training adds, is dropped.

    Parameters
    ----------
    name : one of `SOURCES` that is no tokenizer
    state : tensors under their published keys
    config : sizes

    Returns
    -------
    {file: {key: tensor}}: image_flow and text_data for "versatile", otherwise one file of that name

    Raises
    ------
    ValueError
        If keys are missing or left over, or tensors have another size; they are listed.
    """
    if name == "versatile":
        return map_versatile(state, config.versatile)
    head, _, tail = name.partition("_")
    section = config.stable.get(tail) if head == "stable" else getattr(config, name)
    if not section:
        raise ValueError(f"{name}: this configuration has no such network")
    return {name: _MAPS[name](state, section)}


def files_of(name: str) -> tuple[str, ...]:
    """Name the files that a source becomes in a networks directory."""
    if name in TOKENIZERS:
        return (f"{name}/tokenizer.json",)
    files = ("image_flow", "text_data") if name == "versatile" else (name,)
    return tuple(f"{file}.safetensors" for file in files)


def _spread(sources: Mapping[str, str | Path]) -> dict[str, Path]:
    """Write "stable" out as the three networks of its folder."""
    spread: dict[str, Path] = {}
    for name, source in sources.items():
        spread |= dict.fromkeys(STABLE if name == "stable" else (name,), Path(source))
    return spread


def _absent(sources: Mapping[str, Path]) -> list[Path]:
    """List the sources that are not there, before the first minute is spent on another one."""
    return [source for source in sources.values() if not source.exists()]


def _require_same_sizes(path: Path, config: NetworksConfig) -> None:
    """Refuse to mix networks of two sizes: networks.json could only describe one of them."""
    if not path.is_file():
        return
    there = asdict(NetworksConfig.from_json(path))
    wanted = json.loads(json.dumps(asdict(config)))
    there = json.loads(json.dumps(there))
    other = [name for name in wanted if there[name] and there[name] != wanted[name]]
    if other:
        raise ValueError(
            f"{path.parent} holds networks of other sizes ({', '.join(other)}): convert into "
            "another folder"
        )


def _copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer.json, whole or not at all."""
    source = source / "tokenizer.json" if source.is_dir() else source
    if not source.is_file():
        raise FileNotFoundError(f"{source} is missing: download it first or give its real place")
    if complaint := find_fault(source):
        raise ValueError(f"{source} is damaged: it {complaint}; download it again")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.copyfile(source, partial)
    os.replace(partial, target)


def write_state(
    state: Mapping[str, Tensor],
    path: str | Path,
    dtype: torch.dtype | None = None,
    source: str = "",
) -> Path:
    """Write tensors as safetensors, whole or not at all; `dtype` casts the floating-point ones.

    `source`, the name of the file they came from, is kept in the header.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    tensors = {key: _cast(value, dtype).contiguous() for key, value in state.items()}
    try:
        save_file(tensors, partial, metadata={"source": source} if source else None)
        partial.chmod(0o666 & ~_umask())  # safetensors lets nobody else read, in a lab's folder too
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value
