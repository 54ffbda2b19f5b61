"""Checking and resizing images before a network sees them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def check(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the images if they are 8-bit colour images, else say what is wrong.

    Parameters
    ----------
    images : (n, H, W, 3) uint8

    Raises
    ------
    TypeError
        If the images are not uint8. Float images are refused because a processor cannot tell
        0..1 from 0..255: scaling them twice turns every image almost black without an error.
    ValueError
        If the shape is not (n, H, W, 3), or there is no image or no pixel.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise TypeError(
            f"Images are {images.dtype}: pass uint8 in 0..255 (for floats in 0..1: "
            "`np.round(255 * images).astype(np.uint8)`)."
        )
    if images.ndim != 4 or images.shape[-1] != 3 or images.size == 0:
        raise ValueError(
            f"Images of shape {images.shape}: expected (n, height, width, 3), not empty; "
            "a single image goes in as `image[None]`."
        )
    return images


def resize(images: NDArray[np.uint8], size: int, method: str = "bicubic") -> NDArray[np.uint8]:
    """Resize images to squares with PIL, which is what the original codes used.

    Parameters
    ----------
    images : (n, H, W, 3) uint8
    size : side of the result, pixels
    method : "bilinear", "bicubic" or "lanczos"

    Returns
    -------
    images : (n, size, size, 3) uint8; the same pixels when they have that size already
    """
    images = check(images)
    if images.shape[1:3] == (size, size):
        return np.ascontiguousarray(images)
    resized = [Image.fromarray(image).resize((size, size), FILTERS[method]) for image in images]
    return np.stack([np.asarray(image) for image in resized])
