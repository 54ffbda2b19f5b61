"""How much of everything is measured, at the published sizes and at the miniature's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Amounts of one run.

    Parameters
    ----------
    world : whose networks, by the name of the world that uses them
    gemm : sides of the square matrices that are multiplied
    batches : images at a time in the U-Net, most important first
    images, image_batch : whole images, and how many of them at a time, which divides them
    steps, strength : of the loop; 50 and 0.75 make its 37 steps
    captions : at a time
    encoder_batch : images or captions at a time in the encoders
    decode_batch : images at a time in AutoKL
    ridge : images to train on, new images, voxels
    targets : features that are predicted, all spaces together
    block : features in memory at a time
    repeats : of each piece of work, at most
    """

    world: str
    gemm: tuple[int, ...]
    batches: tuple[int, ...]
    images: int
    image_batch: int
    steps: int
    strength: float
    captions: int
    encoder_batch: int
    decode_batch: int
    ridge: tuple[int, int, int]
    targets: int
    block: int
    repeats: int = 20


SIZES = {
    "full": Sizes(
        world="nsd", gemm=(4096, 8192), batches=(1, 16, 4, 32), images=32, image_batch=16,
        steps=50, strength=0.75, captions=64, encoder_batch=32, decode_batch=4,
        ridge=(8859, 982, 15_724), targets=364_832, block=4096,
    ),
    "miniature": Sizes(
        world="miniature", gemm=(512, 1024), batches=(1, 16, 4, 32), images=32, image_batch=16,
        steps=50, strength=0.75, captions=64, encoder_batch=32, decode_batch=4,
        ridge=(900, 100, 1600), targets=13_832, block=4096,
    ),
}  # fmt: skip
"""By name; "full" are the published networks and subject 1's responses."""
