"""Random numbers from seeded generators, shared by the networks that draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None


def draw_normal(shape: Sequence[int], generator: Generators) -> Tensor:
    """Draw standard normal numbers.

    Parameters
    ----------
    shape : first axis is the item (image or caption)
    generator : one for all items, or one per item (then an item's numbers do not depend on the
        others in its batch), or None for torch's global generator

    Returns
    -------
    noise : float32, on the generator's device

    Raises
    ------
    ValueError
        If a sequence does not hold one generator per item.
    """
    return _draw(torch.randn, shape, generator)


def draw_uniform(shape: Sequence[int], generator: Generators) -> Tensor:
    """Draw numbers uniform in [0, 1); arguments as in `draw_normal`."""
    return _draw(torch.rand, shape, generator)


def _draw(function, shape: Sequence[int], generator: Generators) -> Tensor:
    if generator is None:
        return function(tuple(shape))
    if isinstance(generator, torch.Generator):
        return function(tuple(shape), generator=generator, device=generator.device)
    if len(generator) != shape[0]:
        raise ValueError(
            f"{len(generator)} generators for {shape[0]} items: pass one generator per item."
        )
    rows = [function(tuple(shape[1:]), generator=g, device=g.device) for g in generator]
    return torch.stack(rows)
