"""Compare the tensors of a checkpoint with a network: every key, every shape, all of it at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

SHOWN = 10
"""Keys of each kind that an error names; it gives the number of all."""
_PARALLEL = "module."
Value = TypeVar("Value")


def compare_keys(found: set[str], wanted: set[str], what: str) -> None:
    """Refuse a state dict whose keys are not exactly the wanted ones.

    Raises
    ------
    ValueError : says how many keys are missing and superfluous, and names up to ten of each
    """
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    if missing or extra:
        raise ValueError(
            f"{what} does not fit this configuration: {len(missing)} keys missing "
            f"{_some(missing)}, {len(extra)} not known {_some(extra)}"
        )


def fit_tensors(
    state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], what: str
) -> dict[str, Tensor]:
    """Bring tensors to the shapes of a network.

    Only a 1x1 convolution may become a matrix; anything else must have its shape.

    Parameters
    ----------
    state : key -> tensor
    shapes : key -> shape, of the network
    what : the checkpoint, in words

    Returns
    -------
    tensors : key -> tensor in the order of `shapes`, the same memory

    Raises
    ------
    ValueError
        If keys are missing or left over, or shapes differ: how many, and up to ten of each.
    """
    compare_keys(set(state), set(shapes), what)
    wrong = [
        f"{key}: {tuple(state[key].shape)} instead of {tuple(shape)}"
        for key, shape in shapes.items()
        if state[key].shape not in (shape, (*shape, 1, 1))
    ]
    if wrong:
        raise ValueError(
            f"{what} belongs to a network of another size: {len(wrong)} tensors have another "
            f"shape {_some(wrong)}"
        )
    return {key: state[key].reshape(shape) for key, shape in shapes.items()}


def strip_parallel(state: Mapping[str, Value]) -> dict[str, Value]:
    """Drop the prefix `module.` that parallel training puts before every key."""
    if not all(key.startswith(_PARALLEL) for key in state):
        return dict(state)
    return {key.removeprefix(_PARALLEL): value for key, value in state.items()}


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return str(names[:SHOWN])[:-1] + (", ...]" if len(names) > SHOWN else "]")
