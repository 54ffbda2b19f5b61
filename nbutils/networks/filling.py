"""Fill networks tensor by tensor, strictly, and empty them again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from nbutils.networks.checkpoints_versatile import compare_keys


def read_tensors(
    path: Path,
    shapes: Mapping[str, torch.Size],
    keys: Iterable[str],
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[tuple[str, Tensor]]:
    """Read tensors of a file one by one, after holding the whole file to what is expected.

    Parameters
    ----------
    path : a .safetensors file
    shapes : of all tensors that it must hold
    keys : those to read
    device, dtype : where each goes at once

    Raises
    ------
    ValueError : keys missing, left over, or of another shape; they are listed
    """
    with safe_open(path, framework="pt") as file:
        compare_keys(set(file.keys()), set(shapes), str(path))
        found = {key: tuple(file.get_slice(key).get_shape()) for key in shapes}
        wrong = [
            f"{k} {found[k]} instead of {tuple(v)}" for k, v in shapes.items() if found[k] != v
        ]
        if wrong:
            raise ValueError(
                f"{path} does not fit this configuration: {len(wrong)} tensors of another shape, "
                f"{'; '.join(wrong[:3])}; it belongs to a network of another size"
            )
        for key in keys:
            yield key, file.get_tensor(key).to(device, dtype)


def place(net: nn.Module, key: str, tensor: Tensor) -> None:
    """Put a tensor in the place of a parameter or a buffer, on whatever device that was."""
    owner, _, name = key.rpartition(".")
    module = net.get_submodule(owner)
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[name] = tensor


def empty(net: nn.Module, holds: Callable[[str], bool]) -> None:
    """Give back the memory of the chosen tensors of a network."""
    for key, tensor in net.state_dict().items():
        if holds(key):
            place(net, key, tensor.to("meta"))


def place_buffers(net: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move the buffers that are in no file (positions) to the device."""
    stored = set(net.state_dict())
    for key, tensor in list(net.named_buffers()):
        if key not in stored:
            place(net, key, tensor.to(device, dtype if tensor.is_floating_point() else None))


def existing(path: Path) -> Path:
    """Return the path of a file of a networks directory.

    Raises
    ------
    FileNotFoundError : it is not there
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: `python -m nbutils weights convert` makes it from the published "
            "checkpoints; or choose a networks folder that has it"
        )
    return path
