"""One session of betas, the wanted voxels only: nibabel's ways and ours."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import h5py
import nibabel
import numpy as np
from timing import Timing, compare, interleave

SIZES = {
    "usual": {"shape": (42, 52, 42), "trials": 750, "voxels": 2063},
    "tiny": {"shape": (7, 8, 6), "trials": 5, "voxels": 20},
}
REPEATS = {
    "get_fdata": 3, "dataobj": 2, "stdlib": 2, "isal": 3, "zlib_ng": 3, "inflate": 3, "hdf5": 5,
}  # fmt: skip
NAMES = {
    "get_fdata": "`get_fdata()` -> float32 -> mask (published)",
    "dataobj": "`dataobj.get_unscaled()`, int16 -> mask",
    "stdlib": "ours, nii.gz, Python's zlib",
    "isal": "ours, nii.gz, isal",
    "zlib_ng": "**ours**, nii.gz, zlib-ng",
    "inflate": "zlib-ng alone (`decompressobj`), nothing kept",
    "hdf5": "**ours**, HDF5",
}
LIBRARIES = {"stdlib": "zlib", "isal": "isal", "zlib_ng": "zlib-ng"}
NEEDS = {**LIBRARIES, "inflate": "zlib-ng"}
Run = Callable[[], np.ndarray]


def prepare(folder: Path, size: str) -> None:
    """Write one session in both formats: noise inside an ellipsoid, gzip to about 26 %."""
    shape, trials, n_voxels = SIZES[size].values()
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.7
    rng = np.random.default_rng(0)
    betas = np.zeros((trials, *shape), np.int16)
    for trial in betas:
        trial[inside] = 340 * rng.standard_normal(inside.sum(), dtype=np.float32)
    nii, hdf5 = folder / "betas.nii.gz", folder / "betas.hdf5"
    image = nibabel.Nifti1Image(np.moveaxis(betas, 0, -1), np.diag([1.8, 1.8, 1.8, 1]))
    with gzip.open(nii, "wb", compresslevel=6) as file:
        image.to_file_map({"image": nibabel.FileHolder(fileobj=file)})
    with h5py.File(hdf5, "w") as file:
        file.create_dataset("betas", data=betas.transpose(0, 3, 2, 1), chunks=(trials, 1, 1, 1))
    voxels = np.flatnonzero(inside)
    describe(folder, nii, hdf5, voxels[:n_voxels], shape)


def describe(
    folder: Path, nii: Path, hdf5: Path, voxels: np.ndarray, shape: tuple[int, int, int]
) -> None:
    """Say where the session lies and which voxels are wanted."""
    np.save(folder / "voxels.npy", voxels)
    session = {"nii": str(nii), "hdf5": str(hdf5), "shape": [int(n) for n in shape]}
    (folder / "session.json").write_text(json.dumps(session))


def _read(folder: Path) -> tuple[dict, np.ndarray, tuple[int, int, int]]:
    session = json.loads((folder / "session.json").read_text())
    return session, np.load(folder / "voxels.npy"), tuple(session["shape"])


def load_get_fdata(folder: Path) -> Run:
    """Read as the published code: the whole session as double, then as single precision."""
    session, voxels, shape = _read(folder)
    inside = np.unravel_index(voxels, shape)

    def run() -> np.ndarray:
        betas = nibabel.load(session["nii"]).get_fdata().astype(np.float32)
        return betas[inside].T

    return run


def load_dataobj(folder: Path) -> Run:
    """Read the whole session as it is stored."""
    session, voxels, shape = _read(folder)
    inside = np.unravel_index(voxels, shape)
    return lambda: nibabel.load(session["nii"]).dataobj.get_unscaled()[inside].T


def load_ours(library: str) -> Callable[[Path], Run]:
    """Stream the compressed session through one inflating library."""

    def load(folder: Path) -> Run:
        from nbutils.nsd import gzip_stream
        from nbutils.nsd.session_files import read_session

        session, voxels, shape = _read(folder)
        only = {library: gzip_stream.LIBRARIES[library]}

        def run() -> np.ndarray:
            with mock.patch.dict(gzip_stream.LIBRARIES, only, clear=True):
                return read_session(Path(session["nii"]), voxels, shape)

        return run

    return load


def load_inflate(folder: Path) -> Callable[[], None]:
    """Uncompress the session and throw it away."""
    from zlib_ng import zlib_ng

    session, _, _ = _read(folder)

    def run() -> None:
        inflate = zlib_ng.decompressobj(wbits=31)
        with open(session["nii"], "rb") as file:
            while piece := file.read(2**18):
                inflate.decompress(piece)

    return run


def load_hdf5(folder: Path) -> Run:
    """Fetch the wanted voxels' chunks."""
    from nbutils.nsd.session_files import read_session

    session, voxels, shape = _read(folder)
    return lambda: read_session(Path(session["hdf5"]), voxels, shape)


VARIANTS = {
    "get_fdata": load_get_fdata,
    "dataobj": load_dataobj,
    **{key: load_ours(library) for key, library in LIBRARIES.items()},
    "inflate": load_inflate,
    "hdf5": load_hdf5,
}


def available() -> dict[str, int]:
    """Leave out the inflating libraries that are not installed."""
    from nbutils.nsd import gzip_stream

    missing = {key for key, name in NEEDS.items() if name not in gzip_stream.LIBRARIES}
    return {key: repeats for key, repeats in REPEATS.items() if key not in missing}


def report(folder: Path, size: str) -> list[str]:
    """Run all variants and write their table."""
    prepare(folder, size)
    return tabulate(folder, interleave("loading", folder, available()))


def tabulate(folder: Path, timings: dict[str, Timing]) -> list[str]:
    """Table with the published way as the measure."""
    plain = timings["get_fdata"]
    expected = plain.value()
    notes = {
        key: f"{plain.least / t.least:.1f} times, 1/{plain.extra / max(t.extra, 0.1):.0f}"
        + ("" if key == "inflate" or np.array_equal(t.value(), expected) else ", **OTHER VALUES**")
        for key, t in timings.items()
    }
    session, voxels, shape = _read(folder)
    bytes_raw = expected.shape[0] * int(np.prod(shape)) * 2
    packed = Path(session["nii"]).stat().st_size / bytes_raw
    title = "one session, {}x{}x{}x{}, ".format(*shape, len(expected))
    title += f"{len(voxels)} voxels, gzip to {packed:.0%}"
    goals = {"zlib_ng": "published 9 times, 1/50", "hdf5": "published 25 times"}
    ours = "zlib_ng" if "zlib_ng" in timings else "stdlib"
    note = "published: CPU time, memory"
    return compare(title, timings, NAMES, ours, goals, notes, note)
