"""Read the tensors of published files, and nothing else: no stored code is ever run."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from nbutils.networks.weights.faults import find_fault
from nbutils.networks.weights.registry import FLOW_FOLDERS

WEIGHT_FILES = (
    *("diffusion_pytorch_model.safetensors", "model.safetensors"),
    *("diffusion_pytorch_model.bin", "pytorch_model.bin"),
)
"""Names that diffusers and transformers give a file of weights in its folder, the safer first."""
_SUBFOLDERS = {
    **{"autokl": "vae", "stable_unet": "unet"},
    **{"stable_autokl": "vae", "stable_text": "text_encoder"},
}


def read_source(name: str, source: str | Path) -> dict[str, Tensor]:
    """Read one network's tensors from a file, or from a folder as diffusers writes it.

    Parameters
    ----------
    name : as in `nbutils.networks.checkpoints.SOURCES`
    source : a file; or a folder with a file of `WEIGHT_FILES` in it or in the folder that diffusers
        keeps this network in; for "versatile", a folder with `image_unet` and `text_unet`, whose
        names then stand before the keys

    Raises
    ------
    FileNotFoundError, ValueError : as `read_state`
    """
    source = Path(source)
    if not source.is_dir():
        return read_state(source)
    if name == "versatile":
        return {
            f"{folder}/{key}": value
            for folder in FLOW_FOLDERS
            for key, value in read_state(find_weights(source / folder)).items()
        }
    return read_state(find_weights(source, _SUBFOLDERS.get(name)))


def find_weights(folder: Path, below: str | None = None) -> Path:
    """Return the file of weights in a folder, or in its folder `below`.

    Raises
    ------
    FileNotFoundError : there is none
    """
    places = [folder] + ([folder / below] if below else [])
    for path in (place / name for place in places for name in WEIGHT_FILES):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{places[-1]} has none of {', '.join(WEIGHT_FILES)}: download it first or give its real "
        "place"
    )


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a .pth, .th, .ckpt, .bin or .safetensors file, and nothing else.

    Raises
    ------
    FileNotFoundError : no such file
    ValueError : the file is truncated, is something else, or holds objects other than tensors,
        which are not executed
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: download it first or give its real place")
    if complaint := find_fault(path):
        raise ValueError(f"{path} is damaged: it {complaint}; download it again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Only the zip format can be mapped from disk; the older one is read into memory.
        mapped = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError:
        raise
    except Exception as error:  # bytes of unknown origin can fail in any way
        raise ValueError(
            f"{path} {_explain(error)}, and stored code is never run: download it again from its "
            "publisher"
        ) from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}, not named tensors")
    state = state.get("state_dict", state)
    return {key: value for key, value in state.items() if torch.is_tensor(value)}


def _explain(error: Exception) -> str:
    """Say why torch refused a file: the one thing it wanted to import, where it says so."""
    wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
    if wanted:
        return f"holds more than tensors ({wanted[1]} would have to be imported)"
    return "is damaged or holds more than tensors"
