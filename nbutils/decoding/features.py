"""Features of the frozen networks, extracted in one pass over the images.

Every feature is streamed to a file that survives a kill at any moment (`nbutils.decoding.rows`).
Its record holds the images of the rows, a hash of the network's weights and the options, so that
features of an earlier version are never taken for the present ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from nbutils.artifacts import hash_file
from nbutils.decoding.encoders import (
    FROM_CAPTIONS,
    NETWORK,
    Encode,
    FeatureOptions,
    check_name,
    choose_captions,
    encoder,
)
from nbutils.decoding.rows import RowFile, check_images, digest, is_finished, to_half
from nbutils.decoding.store import Features, open_features

__all__ = ["Features", "extract", "open_features"]

Captions = Sequence[Sequence[str]]


def extract(
    names: Sequence[str],
    networks: Any,
    stimuli: Any,
    captions: Captions | None,
    nsd_ids: ArrayLike,
    folder: str | Path,
    *,
    options: FeatureOptions | None = None,
    batch_size: int = 64,
    replace: bool = False,
    progress: bool = True,
) -> dict[str, Features]:
    """Run frozen networks over all images and store what they say.

    Each image is read once for all networks, while they work on the batch before. A feature that
    is finished costs nothing; one that was interrupted goes on at its last whole batch. With the
    same `batch_size` the files hold the same bytes as without the interruption.

    Parameters
    ----------
    names : of the encoders' (`nbutils.decoding.encoders`), such as "clip_image" or "control"
    networks : what `nbutils.networks.loading.load` returns
    stimuli : indexable by an array of nsd_ids, giving (n, H, W, 3) uint8 images
    captions : for each nsd_id a list of captions; None for features of images
    nsd_ids : (n_images,) int, images without repetition
    folder : where ``<name>.npy`` and ``<name>.features.json`` go
    options : how images and captions are encoded; the careful choices by default
    batch_size : images at a time
    replace : whether a finished file of other images, weights or options is written anew; by
        default it is left alone and reported
    progress : show a progress bar

    Returns
    -------
    features : for each name, memory-mapped float16 with one row per image

    Raises
    ------
    ValueError
        If a name is unknown, captions are missing, a value is too large for float16, or a file
        holds other features and `replace` was not asked for.
    OSError
        If the disk is too small for what is still to be written.
    """
    ids, folder = np.asarray(nsd_ids, dtype=np.int64), Path(folder)
    options = options or FeatureOptions()
    _check(names, captions, ids)
    weights = _hash_weights(names, networks)
    parts = []
    for name in names:
        record = _describe(name, options, stimuli, captions, ids) | {"weights": weights[name]}
        if not is_finished(folder / f"{name}.npy", record, replace):
            parts.append(_Part(folder / f"{name}.npy", record, encoder(name, networks, options)))
    if parts:
        folder.mkdir(parents=True, exist_ok=True)
        _run(parts, stimuli, captions, ids, batch_size, progress)
    return {name: open_features(folder / f"{name}.npy") for name in names}


def _check(names: Sequence[str], captions: Captions | None, ids: NDArray) -> None:
    if isinstance(names, str):
        raise ValueError(f"names={names!r}: give a list of names, such as [{names!r}].")
    for name in names:
        check_name(name)
        if name in FROM_CAPTIONS and (captions is None or len(captions) != len(ids)):
            found = "none" if captions is None else str(len(captions))
            raise ValueError(
                f"{name} needs one list of captions for each of {len(ids)} images, got {found}."
            )
    if set(names) & set(FROM_CAPTIONS):
        empty = [int(i) for i, texts in zip(ids, captions or (), strict=True) if not any(texts)]
        if empty:
            raise ValueError(
                f"{len(empty)} images have no caption (nsd_id {empty[0]} is the first); leave "
                "these images out or fetch their captions."
            )
    check_images(ids)


def _hash_weights(names: Sequence[str], networks: Any) -> dict[str, str | None]:
    """Hash of the file of each feature's network; None for networks without a directory."""
    if getattr(networks, "weights", "stored") == "random":
        return dict.fromkeys(names, "random")  # not those of the directory's files
    directory = getattr(networks, "directory", None)
    network = {name: NETWORK.get(name, name) for name in names}
    hashes = {}
    for one in set(network.values()):  # CLIP's two towers share a large file
        file = Path(directory or ".", f"{one}.safetensors")
        hashes[one] = hash_file(file) if directory is not None and file.is_file() else None
    return {name: hashes[one] for name, one in network.items()}


def _describe(
    name: str, options: FeatureOptions, stimuli: Any, captions: Captions | None, ids: NDArray
) -> dict:
    """What decides the values of a feature, weights excepted, as it is kept beside the array."""
    record = {"feature": name, "options": options.of(name), "nsd_id": ids.tolist()}
    if name in FROM_CAPTIONS:
        return record | {"captions": digest(choose_captions(captions or (), options))}
    return record | {"images": getattr(stimuli, "source", None)}


class _Part(RowFile):
    """A feature that is being extracted: its file, and what computes the rows."""

    def __init__(self, path: Path, record: dict, encode: Encode) -> None:
        super().__init__(path, record)
        self.encode, self.from_images = encode, self.name not in FROM_CAPTIONS


def _run(
    parts: Sequence[_Part],
    stimuli: Any,
    captions: Captions | None,
    ids: NDArray,
    batch_size: int,
    progress: bool,
) -> None:
    first = min(part.done for part in parts)
    batches = [slice(k, min(k + batch_size, len(ids))) for k in range(first, len(ids), batch_size)]
    seen = min((part.done for part in parts if part.from_images), default=len(ids))

    def read(rows: slice) -> NDArray | None:
        return stimuli[ids[rows]] if seen < rows.stop else None

    label = ", ".join(part.name for part in parts)
    with ExitStack() as stack:
        for part in parts:
            stack.callback(part.close)
        images = stack.enter_context(closing(_read_ahead(read, batches)))
        bar = tqdm(total=len(ids), initial=first, desc=label, unit="image", disable=not progress)
        stack.enter_context(bar)
        for rows, pixels in zip(batches, images, strict=True):
            for part in parts:
                _extend(part, rows, pixels, captions, ids)
            if rows.start == first:
                _check_disk(parts)
            bar.update(rows.stop - rows.start)
    for part in parts:
        part.finish()


def _extend(
    part: _Part, rows: slice, pixels: NDArray | None, captions: Captions | None, ids: NDArray
) -> None:
    """Add the rows of one batch that a feature does not have yet."""
    if part.done >= rows.stop:
        return
    skip = part.done - rows.start  # above 0 only where an earlier run had other batches
    rows = slice(part.done, rows.stop)
    if part.from_images:
        values = part.encode(pixels[skip:], [[]] * len(ids[rows]), ids[rows])
    else:
        values = part.encode(None, captions[rows], ids[rows])
    part.write(to_half(values, part.name))


def _read_ahead(
    read: Callable[[slice], NDArray | None], batches: Sequence[slice]
) -> Iterator[NDArray | None]:
    """Yield the images of each batch while a thread reads those of the next."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(read, batches[0]) if batches else None
        for k in range(len(batches)):
            images = following.result()
            following = pool.submit(read, batches[k + 1]) if k + 1 < len(batches) else None
            yield images
            del images  # or three batches would be in memory


def _check_disk(parts: Sequence[_Part]) -> None:
    """Say on the first batch, not after hours, that the disk is too small."""
    missing = sum(part.missing_bytes for part in parts)
    folder = parts[0].path.parent
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise OSError(
            f"{folder} has {free / 1e9:.1f} GB left, the features still need {missing / 1e9:.1f} "
            "GB; make room or choose another folder."
        )
