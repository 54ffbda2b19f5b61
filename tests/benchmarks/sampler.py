"""The sampling loop against the bare network calls that it cannot do without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from timing import compare, interleave

SIZES = {"usual": {"n": 16, "steps": 10}, "tiny": {"n": 1, "steps": 2}}
NAMES = {"loop": "**ours**, the DDIM loop", "calls": "its U-Net calls alone"}


def prepare(folder: Path, size: str) -> None:
    """Write how many images and steps."""
    (folder / "size.txt").write_text("{n} {steps}".format(**SIZES[size]))


def _inputs(folder: Path) -> tuple[Any, ...]:
    import torch

    from nbutils.networks.loading import load
    from nbutils.study import Study

    torch.set_num_threads(1)
    n, steps = (int(x) for x in (folder / "size.txt").read_text().split())
    networks = load(Study(device="cpu").networks)
    config = networks.config.versatile
    noise = torch.randn(n, *config.image_latent_shape, generator=torch.Generator().manual_seed(0))
    empty = networks.clip.unconditional()
    contexts = {kind: tokens.expand(n, -1, -1) for kind, tokens in empty.items()}
    return networks.image_unet, config, noise, empty, contexts, steps


def load_loop(folder: Path) -> Callable[[], None]:
    """Sample."""
    import torch

    from nbutils.networks.sampling import ddim
    from nbutils.networks.versatile import image_flow

    unet, config, noise, empty, contexts, steps = _inputs(folder)

    def run() -> None:
        with torch.no_grad():
            ddim(
                lambda x, t, c: image_flow(unet, x, t, c), None, contexts, empty,
                {"image": 0.6, "text": 0.4}, config=config, noise=noise, steps=steps,
                guidance_scale=4.0,
            )  # fmt: skip

    return run


def load_calls(folder: Path) -> Callable[[], None]:
    """Call the network as often, on as many."""
    import torch

    from nbutils.networks.sampling import plan_steps
    from nbutils.networks.versatile import image_flow

    unet, _, noise, _, contexts, steps = _inputs(folder)
    weights = {"image": 0.6, "text": 0.4}
    doubled = {k: (torch.cat([t, t]), weights[k]) for k, t in contexts.items()}

    def run() -> None:
        with torch.no_grad():
            for t in plan_steps(steps)[1]:
                image_flow(unet, torch.cat([noise, noise]), t, doubled)

    return run


VARIANTS = {"loop": load_loop, "calls": load_calls}


def report(folder: Path, size: str) -> list[str]:
    """Run both and write their table."""
    prepare(folder, size)
    timings = interleave("sampler", folder, {"loop": 3, "calls": 3})
    title = "sampling {n} images, {steps} steps".format(**SIZES[size])
    return compare(title, timings, NAMES, "calls", {"loop": "1.05"}, {})
