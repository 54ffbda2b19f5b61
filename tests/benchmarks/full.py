"""The largest pieces at NSD's own size: ``make bench-full``.

``ridge``: subject 1's 8,859 x 15,724 responses and all five feature spaces, 364,832 targets as
float16 memory maps of noise over a few shared causes, by the operator; scikit-learn fits *one* of
the 334 tokens, and its time is multiplied. ``session``: one stand-in session in both formats.
``preparation``: the responses of as many sessions as a subject has, masked ones of random numbers.

Every step keeps what it has made, so that an interrupted run goes on; at the end they are
removed, unless ``--keep`` is given. Needs about 10 GB of disk, and 6 GB of memory for scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import loading
import numpy as np
from timing import Timing, describe_machine, interleave, table

FEATURES = {  # name -> targets, published penalty (that of C_I for the two that have none)
    "C_I": (257 * 768, 60_000),
    "Z_I": (16_384, 60_000),
    "Z_T": (768, 60_000),
    "C_T": (77 * 768, 100_000),
    "VDVAE": (91_168, 50_000),
}
"""In the order of `Decoder.decode`: features of one penalty follow each other."""
TOKENS = 257 + 77
SIZES = {
    "usual": {"n": 8859, "m": 982, "p": 15_724, "width": 768, "shrink": 1},
    "tiny": {"n": 60, "m": 9, "p": 90, "width": 12, "shrink": 768},
}
CAUSES = 64


def targets(size: dict, name: str) -> int:
    """Count the targets of a feature space at this size."""
    return max(size["width"], FEATURES[name][0] // size["shrink"])


def check_disk(folder: Path, size: dict) -> None:
    """Refuse to begin what the disk cannot hold."""
    columns = sum(targets(size, name) for name in FEATURES)
    needed = columns * (2 * size["n"] + 4 * size["m"]) + 4 * size["p"] * (size["n"] + size["m"])
    needed -= sum(file.stat().st_size for file in folder.glob("*.npy"))
    free = shutil.disk_usage(folder).free
    if needed > 0.9 * free:
        raise OSError(
            f"{folder} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} are free; choose another "
            "--folder."
        )


def make_ridge(folder: Path, size: dict) -> None:
    """Write responses (float32) and features (float16) that share some causes."""
    check_disk(folder, size)
    rng = np.random.default_rng(0)
    causes = rng.standard_normal((size["n"] + size["m"], CAUSES), dtype=np.float32)
    _write(folder / "train.npy", causes[: size["n"]], size["p"], np.float32)
    _write(folder / "new.npy", causes[size["n"] :], size["p"], np.float32)
    for name in FEATURES:
        _write(folder / f"{name}.npy", causes[: size["n"]], targets(size, name), np.float16)
    (folder / "size.json").write_text(json.dumps(size))


def _write(path: Path, causes: np.ndarray, columns: int, dtype: type, rows: int = 64) -> None:
    """Mix the causes and add noise, some rows at a time."""
    if path.exists():
        return
    # The same mixture for train and new: both are the responses of one brain.
    mixture = np.random.default_rng(columns).standard_normal((CAUSES, columns), dtype=np.float32)
    noise = np.random.default_rng([len(causes), columns])
    part = path.with_name(path.name + ".part")
    file = np.lib.format.open_memmap(part, "w+", dtype, (len(causes), columns))
    for start in range(0, len(causes), rows):
        block = causes[start : start + rows] @ mixture / CAUSES**0.5
        block += 2 * noise.standard_normal(block.shape, dtype=np.float32)
        file[start : start + rows] = block / 5**0.5
    file.flush()
    del file
    os.replace(part, path)


def load_operator(folder: Path) -> Callable[[], np.ndarray]:
    """Predict every target from the memory maps into files; return the first token."""
    from nbutils.decoding.ridge import RidgeOperator

    size = json.loads((folder / "size.json").read_text())

    def run() -> np.ndarray:
        operator = RidgeOperator(np.load(folder / "train.npy", mmap_mode="r"))
        new = np.load(folder / "new.npy")
        for name, (_, alpha) in FEATURES.items():
            values = np.load(folder / f"{name}.npy", mmap_mode="r")
            operator.predict(new, values, alpha, out=folder / f"predicted_{name}.npy")
        found = np.load(folder / "predicted_C_I.npy", mmap_mode="r")
        return np.array(found[:, : size["width"]])

    return run


def load_sklearn(folder: Path) -> Callable[[], np.ndarray]:
    """Fit and predict the first token as the published script does, in double precision."""
    from sklearn.linear_model import Ridge

    size = json.loads((folder / "size.json").read_text())
    train, new = (np.load(folder / f"{x}.npy").astype(np.float64) for x in ("train", "new"))
    token = np.load(folder / "C_I.npy", mmap_mode="r")[:, : size["width"]].astype(np.float64)
    return lambda: Ridge(FEATURES["C_I"][1]).fit(train, token).predict(new)


def load_preparation(folder: Path) -> Callable[[], None]:
    """Read, average and z-score all sessions into files."""
    from nbutils.nsd.betas import load_responses
    from nbutils.nsd.layout import Layout

    layout, prepared = Layout(folder / "standin"), folder / "prepared"
    prepared.mkdir(exist_ok=True)

    def run() -> None:
        load_responses(layout, 1, file_format="masked", folder=prepared)

    return run


VARIANTS = {
    "operator": load_operator,
    "sklearn": load_sklearn,
    "preparation": load_preparation,
}


def report_ridge(folder: Path, options: argparse.Namespace) -> list[str]:
    """Time the operator on everything and scikit-learn on one token."""
    size = SIZES[options.size]
    make_ridge(folder, size)
    timings = {
        key: interleave("full", folder, {key: 1}, options.threads)[key]
        for key in ("operator", "sklearn")
    }
    ours, plain = timings["operator"], timings["sklearn"]
    reference = plain.value()
    error = ours.value() - reference
    columns = sum(targets(size, name) for name in FEATURES)
    rows = [
        _row(f"scikit-learn, one token of {size['width']}, float64", plain),
        (
            f"the same x {TOKENS}", f"{TOKENS * plain.least:,.0f}",
            f"{TOKENS * plain.wall[0]:,.0f}", "",
        ),
        _row(f"**ours**, all {columns:,} targets", ours),
    ]  # fmt: skip
    title = "ridge, {n:,} images x {p:,} voxels".format(**size)
    return [
        *table((title, "CPU s", "wall s", "peak memory, MB"), rows),
        f"Ratio {TOKENS * plain.least / ours.least:.0f} in CPU time, "
        f"{TOKENS * plain.wall[0] / ours.wall[0]:.0f} in wall time (goal 100; peak 2,000 MB). "
        f"First token against float64: max {np.abs(error).max():.1e}, rms "
        f"{error.std() / reference.std():.1e} of the standard deviation (goal 1e-5).",
        "",
    ]


def _row(name: str, timing: Timing) -> tuple[str, ...]:
    return name, f"{timing.least:,.1f}", f"{timing.wall[0]:,.1f}", f"{timing.peak[0]:,.0f}"


def _standin(folder: Path, options: argparse.Namespace, formats: tuple[str, ...], n: int):
    from nbutils.miniature.standin import Size, Stage, synthesize

    tiny = Size(scale=0.03, image_side=85, stages=(Stage(1, (25, 0, 0), (225, 0, 0)),))
    size = Size() if options.size == "usual" else tiny
    root = folder / "standin"
    return synthesize(root, "subj01", n, formats=formats, images=False, size=size)


def report_session(folder: Path, options: argparse.Namespace) -> list[str]:
    """Read one stand-in session in both formats, and as published."""
    from nbutils.nsd import rois, volumes

    layout = _standin(folder, options, ("nii.gz", "hdf5"), 1)
    shape, _ = volumes.grid(layout, 1)
    files = (layout.betas(1, 1, file_format) for file_format in ("nii.gz", "hdf5"))
    loading.describe(folder, *files, rois.mask(layout, 1), shape)
    timings = interleave("loading", folder, dict.fromkeys(loading.available(), 2), options.threads)
    return loading.tabulate(folder, timings)


def report_preparation(folder: Path, options: argparse.Namespace) -> list[str]:
    """Prepare as many sessions as a subject has, masked ones of random numbers."""
    from nbutils.nsd import rois, volumes
    from nbutils.nsd.masked import write_masked

    layout = _standin(folder, options, ("nii.gz",), 1)
    voxels, (shape, _) = rois.mask(layout, 1), volumes.grid(layout, 1)
    rng = np.random.default_rng(0)
    for session in range(1, options.sessions + 1):
        betas = rng.integers(-3000, 3000, (750, len(voxels)), np.int16)
        write_masked(layout, 1, session, betas, voxels, shape)
    timing = interleave("full", folder, {"preparation": 1}, options.threads)["preparation"]
    title = f"preparation of {options.sessions} sessions, {len(voxels):,} voxels"
    title += " (goal: peak 1,500 MB)"
    return table((title, "CPU s", "wall s", "peak memory, MB"), [_row("**ours**", timing)])


STEPS = {"ridge": report_ridge, "session": report_session, "preparation": report_preparation}


def main() -> None:
    """Run the steps and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(STEPS), help="steps, with commas between")
    parser.add_argument("--folder", type=Path, default=Path("results"), help="on a disk with room")
    parser.add_argument("--keep", action="store_true", help="do not remove bench_full in the end")
    parser.add_argument("--sessions", type=int, default=40, help="to prepare; subject 1 has 40")
    parser.add_argument("--threads", type=int, default=1, help="of BLAS")
    parser.add_argument("--size", choices=("usual", "tiny"), default="usual")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(STEPS):
        parser.error(f"--only {', '.join(sorted(unknown))}: choose from {', '.join(STEPS)}.")
    folder = options.folder / "bench_full"  # removed in the end, so nobody else's
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{describe_machine()}; {options.threads} BLAS threads.\n", flush=True)
    for step in options.only.split(","):
        print("\n".join(STEPS[step](folder, options)), flush=True)
    print(f"{describe_machine()}.")
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
