"""Write the stand-in's images: the stimulus file, the shared ones as PNG, COCO's photographs."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from nbutils.miniature import scenes
from nbutils.miniature.standin.coco import Photographs, file_name, photograph
from nbutils.miniature.standin.files import make
from nbutils.nsd.layout import Layout

DATASET = "imgBrick"
COCO = "coco"
"""Folder that stands in for COCO's server."""
_PNG_LEVEL, _JPEG_QUALITY = 1, 90


def create_brick(path: Path, n_images: int, side: int) -> None:
    """Create ``nsd_stimuli.hdf5`` with all its images empty.

    The data are one stretch of the file, as uncompressed as NSD's, whose place is fixed at once
    but never filled: the file system keeps only what is written later. So 39.6 GB take no room.
    """
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((n_images, side, side, 3))
    with h5py.File(path, "w") as file:
        h5py.h5d.create(file.id, DATASET.encode(), h5py.h5t.STD_U8LE, space, layout)


def enlarge(drawn: np.ndarray, side: int) -> Image.Image:
    """Bring a drawn scene to the size of a stimulus."""
    return Image.fromarray(drawn).resize((side, side), Image.Resampling.BICUBIC)


def write_images(layout: Layout, nsd_ids: np.ndarray, known: Photographs, progress: bool) -> None:
    """Write images into their rows of the stimulus file, and their photographs beside it.

    Parameters
    ----------
    layout : of a folder with the stimulus file
    nsd_ids : (n,) 0-based
    known : Photographs
    progress : show a bar
    """
    with h5py.File(layout.stimuli(), "r") as file:
        start, (_, side, _, _) = file[DATASET].id.get_offset(), file[DATASET].shape
    # Plain writes at known places: HDF5 itself would leave a damaged file if it is killed.
    with open(layout.stimuli(), "r+b") as brick:
        for nsd_id in tqdm(np.sort(nsd_ids), desc="draw images", disable=not progress):
            drawn = scenes.draw(scenes.scene(int(nsd_id)))
            pixels = enlarge(drawn, side).tobytes()
            os.pwrite(brick.fileno(), pixels, start + int(nsd_id) * len(pixels))
            photo = photograph(drawn, known, nsd_id)
            make(
                layout.root / COCO / file_name(known, nsd_id),
                partial(photo.save, format="JPEG", quality=_JPEG_QUALITY),
            )


def write_shared(layout: Layout, shared: np.ndarray, side: int, progress: bool) -> None:
    """Write ``shared1000/sharedNNNN_nsdKKKKK.png``; N and K count from 1, as in NSD."""
    folder = layout.stimuli().parent / "shared1000"
    bar = tqdm(shared, desc="draw shared images", disable=not progress)
    for number, nsd_id in enumerate(bar, start=1):
        path = folder / f"shared{number:04d}_nsd{nsd_id + 1:05d}.png"
        if not path.exists():
            image = enlarge(scenes.draw(scenes.scene(int(nsd_id))), side)
            make(path, partial(image.save, format="PNG", compress_level=_PNG_LEVEL))
