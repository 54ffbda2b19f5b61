"""Single images: the shared ones as NSD's own PNG files, a subject's own from one of two places.

"stimuli" cuts them out of NSD's stimulus file, 0.5 MB each instead of 39.6 GB for all, and they are
what was shown. "coco" crops COCO's photographs again: near to what was shown, not identical.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from nbutils.nsd.captions import SIDE, crop_photograph, read_crop, stim_info
from nbutils.nsd.download.remote_hdf5 import DATASET, Brick, RemoteHDF5, open_brick
from nbutils.nsd.layout import SPLITS, Layout
from nbutils.nsd.trials import design, trials
from nbutils.transfer.files import DamagedError, Fingerprint, restarting
from nbutils.transfer.ledger import Ledger
from nbutils.transfer.progress import Meter
from nbutils.transfer.transport import Entry, FetchError, Remote

_TOGETHER = 8
"""Neighbouring images fetched with one request."""
Job = Callable[[], None]


def own_images(layout: Layout, subject: int, sessions: tuple[int, ...]) -> np.ndarray:
    """Return the nsd_ids (0-based, ascending) of a subject's private images in some sessions."""
    table = trials(layout, subject, sessions)
    return np.unique(table["nsd_id"][~table["shared"]].to_numpy())


def check_shared(layout: Layout, shared: dict[int, Entry], address: str) -> None:
    """See that the server lists every shared image of the design.

    Raises
    ------
    FetchError
        If one is missing.
    """
    absent = [int(i) for i in design(layout).shared if int(i) not in shared]
    if absent:
        raise FetchError(
            f"{address} lists {len(shared)} shared images, without {len(absent)} of the design "
            f"(first nsd_id {absent[0]}, counted from 0): check the address of the server"
        )


def brick_jobs(
    remote: Remote, entry: Entry, layout: Layout, nsd_ids: np.ndarray, ledger: Ledger, meter: Meter
) -> list[Job]:
    """Return the work of cutting images out of the stimulus file, to be done in any order."""
    wanted = _absent(layout, nsd_ids, "stimuli", ledger)
    if not len(wanted):
        return []
    brick = open_brick(remote, entry, meter)
    if len(stim_info(layout)) != brick.shape[0]:
        raise FetchError(
            f"{entry.key} on {remote.address} has {brick.shape[0]} images, the stimulus table "
            f"{len(stim_info(layout))}: they do not belong together"
        )
    if brick.offset is None:
        return [lambda: _cut_chunked(remote, entry, layout, wanted, ledger, meter)]
    return [
        _job(_cut, remote, entry, brick, layout, stretch, ledger, meter)
        for stretch in stretches(wanted)
    ]


def stretches(nsd_ids: np.ndarray, longest: int = _TOGETHER) -> list[np.ndarray]:
    """Divide ascending numbers into runs of neighbours of at most `longest`."""
    runs = np.split(nsd_ids, np.flatnonzero(np.diff(nsd_ids) > 1) + 1)
    return [run[first : first + longest] for run in runs for first in range(0, len(run), longest)]


def coco_jobs(
    remote: Remote, layout: Layout, nsd_ids: np.ndarray, side: int, ledger: Ledger, meter: Meter
) -> list[Job]:
    """Return the work of cropping COCO's photographs again, to be done in any order."""
    table = stim_info(layout)
    return [
        _job(_crop, remote, layout, table.loc[nsd_id], side, ledger, meter)
        for nsd_id in _absent(layout, nsd_ids, "coco", ledger).tolist()
    ]


def image_side(layout: Layout, shared: dict[int, Entry]) -> int:
    """Return the side of the shared images on disk, pixels; NSD's where there is none."""
    for nsd_id in shared:
        path = layout.image(nsd_id, "shared")
        if path.is_file():
            with Image.open(path, formats=["PNG"]) as image:
                return image.size[0]
    return SIDE


def _job(work: Callable[..., None], *arguments: object) -> Job:
    return lambda: work(*arguments)


def _absent(layout: Layout, nsd_ids: np.ndarray, origin: str, ledger: Ledger) -> np.ndarray:
    wanted = [i for i in nsd_ids.tolist() if not ledger.whole(layout.image(i, origin))]
    return np.asarray(wanted, np.int64)


def _cut(
    remote: Remote,
    entry: Entry,
    brick: Brick,
    layout: Layout,
    stretch: np.ndarray,
    ledger: Ledger,
    meter: Meter,
) -> None:
    """Fetch neighbouring images with one request."""
    start = brick.offset + int(stretch[0]) * brick.image_bytes
    content = remote.read(entry, meter, start, start + len(stretch) * brick.image_bytes)
    images = np.frombuffer(content, np.uint8).reshape(len(stretch), *brick.shape[1:])
    for nsd_id, image in zip(stretch.tolist(), images, strict=True):
        _save(layout, nsd_id, "stimuli", image, entry, ledger)


def _cut_chunked(
    remote: Remote, entry: Entry, layout: Layout, nsd_ids: np.ndarray, ledger: Ledger, meter: Meter
) -> None:
    """Read images through HDF5, one after the other, where they do not lie in one stretch."""
    with RemoteHDF5(remote, entry, meter) as file:
        brick = file[DATASET]
        for nsd_id in nsd_ids.tolist():
            _save(layout, nsd_id, "stimuli", brick[nsd_id], entry, ledger)


def _crop(
    remote: Remote, layout: Layout, row: pd.Series, side: int, ledger: Ledger, meter: Meter
) -> None:
    if row["cocoSplit"] not in SPLITS:
        raise FetchError(f"cocoSplit {row['cocoSplit']!r} is none of {', '.join(SPLITS)}")
    key = f"{row['cocoSplit']}/{int(row['cocoId']):012d}.jpg"

    def work(_: Entry) -> None:
        content, entry = remote.read_whole(key, meter)
        photograph = _decode(content, entry)
        image = crop_photograph(photograph, read_crop(row["cropBox"]), side)
        _save(layout, int(row["nsdId"]), "coco", image, entry, ledger)

    restarting(remote, Entry(key, 0, None), meter, work)


def _decode(content: bytes, entry: Entry) -> Image.Image:
    digest = Fingerprint(entry)
    digest.update(content)
    digest.verify()
    try:
        image = Image.open(io.BytesIO(content), formats=["JPEG"])
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise DamagedError(f"{entry.key} is no readable photograph ({error})") from error
    return image


def _save(
    layout: Layout, nsd_id: int, origin: str, image: np.ndarray, entry: Entry, ledger: Ledger
) -> None:
    """Write one image without loss; level 1 of PNG's compression is quick and near the smallest."""
    if not image.any():
        raise FetchError(
            f"image {nsd_id} (nsd_id, counted from 0) is empty in {entry.key}: the server holds a "
            "partial copy, so fetch from another one"
        )
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    path = layout.image(nsd_id, origin)
    write_bytes(path, buffer.getvalue())
    ledger.add(path, hashlib.sha256(buffer.getbuffer()).hexdigest(), key=entry.key, etag=entry.etag)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{threading.get_ident()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
