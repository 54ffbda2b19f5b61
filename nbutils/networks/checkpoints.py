"""Convert published checkpoints into a networks directory, once, without executing a pickle."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nbutils.networks.checkpoints_parts import (
    CLIP_VIT_L14,
    KL_F8,
    OPTIMUS_VD,
    VDVAE_IMAGENET64,
    map_autokl,
    map_clip,
    map_optimus,
    map_vdvae,
)
from nbutils.networks.checkpoints_versatile import map_versatile
from nbutils.networks.config import FULL, NetworksConfig
from nbutils.networks.loading import FULL_PRECISION

FULL_NETWORKS = NetworksConfig(
    clip=CLIP_VIT_L14, autokl=KL_F8, optimus=OPTIMUS_VD, vdvae=VDVAE_IMAGENET64, versatile=FULL
)
"""The published networks."""

TOKENIZERS = ("tokenizers/clip", "tokenizers/bert", "tokenizers/gpt2")
SOURCES = ("versatile", "clip", "autokl", "optimus", "vdvae", *TOKENIZERS)
"""What `convert_directory` reads: five checkpoints and three tokenizer.json files."""


def convert_directory(
    sources: Mapping[str, str | Path],
    directory: str | Path,
    config: NetworksConfig = FULL_NETWORKS,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a networks directory from published files.

    Every file is written whole or not at all, networks.json last. Sources may come in several
    calls; a network converted again is replaced.

    Parameters
    ----------
    sources : {name: file}, names as in `SOURCES`. "versatile": vd-four-flow-v1-0.pth or its
        "-deprecated" twin; "clip": a CLIP ViT-L/14 in transformers' format; "autokl": kl-f8.pth;
        "optimus": optimus-vae.pth; "vdvae": imagenet64-iter-1600000-model-ema.th;
        "tokenizers/...": tokenizer.json of CLIP, of bert-base-cased and of GPT-2
    directory : to write into
    config : sizes of the networks in the files
    dtype : of the written weights; None keeps the source's, as VDVAE always does

    Returns
    -------
    directory

    Raises
    ------
    ValueError : unknown source, or a checkpoint that does not fit `config`
    FileNotFoundError : a source is not there
    """
    directory = Path(directory)
    unknown, absent = set(sources) - set(SOURCES), _absent(sources)
    if unknown:
        raise ValueError(f"sources {sorted(unknown)} are not known: choose from {SOURCES}")
    if absent:
        raise FileNotFoundError(f"{absent[0]} is missing: download it first or give its real place")
    for name, source in sources.items():
        if name in TOKENIZERS:
            _copy(Path(source), directory / name / "tokenizer.json")
            continue
        for file, tensors in convert(name, read_state(source), config).items():
            kept = None if name in FULL_PRECISION else dtype
            write_state(tensors, directory / f"{file}.safetensors", kept)
    directory.mkdir(parents=True, exist_ok=True)
    config.to_json(directory / "networks.json")
    return directory


def convert(
    name: str, state: Mapping[str, Tensor], config: NetworksConfig
) -> dict[str, dict[str, Tensor]]:
    """Rename the tensors of one published checkpoint and check that they fill the network exactly.

    Parameters
    ----------
    name : "versatile", "clip", "autokl", "optimus" or "vdvae"
    state : tensors under their published keys
    config : sizes

    Returns
    -------
    {file: {key: tensor}}: image_flow and text_data for "versatile", otherwise one file of that name

    Raises
    ------
    ValueError : keys missing or left over, or a tensor of another size
    """
    if name == "versatile":
        return map_versatile(state, config.versatile)
    maps = {"clip": map_clip, "autokl": map_autokl, "optimus": map_optimus, "vdvae": map_vdvae}
    return {name: maps[name](state, getattr(config, name))}


def _absent(sources: Mapping[str, str | Path]) -> list[Path]:
    """List the sources that are not there, before the first minute is spent on another one."""
    return [Path(source) for source in sources.values() if not Path(source).is_file()]


def _copy(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.copyfile(source, partial)
    os.replace(partial, target)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a .pth, .ckpt, .bin or .safetensors file, and nothing else.

    Raises
    ------
    FileNotFoundError : no such file
    ValueError : the file holds objects other than tensors, which are not executed, or is damaged
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: download it first or give its real place")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Only the zip format can be mapped from disk; the older one is read into memory.
        mapped = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is damaged or holds more than tensors, and stored code is never run: "
            "download it again from its publisher"
        ) from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}, not named tensors")
    state = state.get("state_dict", state)
    return {key: value for key, value in state.items() if torch.is_tensor(value)}


def write_state(
    state: Mapping[str, Tensor], path: str | Path, dtype: torch.dtype | None = None
) -> Path:
    """Write tensors as safetensors, whole or not at all; `dtype` casts the floating-point ones."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        save_file({key: _cast(value, dtype).contiguous() for key, value in state.items()}, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value
