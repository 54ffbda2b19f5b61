"""Measure speed as ratios within one run: ``make bench`` prints the tables of BENCHMARKS.md.

Every row times two ways of doing the same thing, interleaved, in CPU time of one thread, and
prints how far their results lie apart. Wall times are printed and never asserted.
"""

from __future__ import annotations

import argparse
import json
import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy: several BLAS threads make timings meaningless

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import nibabel  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from sklearn.linear_model import Ridge  # noqa: E402

from nbutils import manifest  # noqa: E402
from nbutils.decoding.ridge import RidgeOperator  # noqa: E402
from nbutils.metrics.identification import identify  # noqa: E402
from nbutils.networks.loading import load  # noqa: E402
from nbutils.networks.sampling import ddim, plan_steps  # noqa: E402
from nbutils.networks.versatile import image_flow  # noqa: E402
from nbutils.nsd import rois, volumes  # noqa: E402
from nbutils.nsd.layout import Layout  # noqa: E402
from nbutils.nsd.session_files import read_session  # noqa: E402
from nbutils.study import Study  # noqa: E402

torch.set_num_threads(1)


def compare(
    name: str,
    plain: Callable[[], np.ndarray | None],
    ours: Callable[[], np.ndarray | None],
    repeats: int = 3,
) -> dict:
    """Time two functions in turn, take the least CPU time of each, and compare their results."""
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    results = {}
    for _ in range(repeats):
        for key, function in (("plain", plain), ("ours", ours)):
            started = time.process_time()
            results[key] = function()
            seconds[key].append(time.process_time() - started)
    least = {key: min(values) for key, values in seconds.items()}
    difference = None  # where one side only does a part of the work, nothing can be compared
    if results["ours"] is not None:
        difference = float(np.abs(np.float64(results["plain"]) - results["ours"]).max())
    return {
        "what": name,
        "plain": least["plain"],
        "ours": least["ours"],
        "ratio": least["plain"] / least["ours"],
        "difference": difference,
    }


def bench_ridge(tokens: int = 12) -> dict:
    """Ridge of many tokens: scikit-learn fitted per token, as published, against the operator."""
    rng = np.random.default_rng(0)
    train, new = rng.standard_normal((1_500, 2_600)), rng.standard_normal((170, 2_600))
    targets = (train[:, :64] @ rng.standard_normal((64, tokens * 768))).astype(np.float32)
    targets += 8 * rng.standard_normal(targets.shape, dtype=np.float32)

    def plain() -> np.ndarray:
        parts = np.split(targets.astype(np.float64), tokens, axis=1)
        return np.hstack([Ridge(1e4).fit(train, part).predict(new) for part in parts])

    return compare(
        f"ridge, 1,500 images x 2,600 voxels x {tokens} tokens of 768: scikit-learn per token",
        plain,
        lambda: RidgeOperator(train).predict(new, targets, 1e4),
    )


def bench_reading(study: Study, file_format: str) -> dict:
    """One session's masked betas: nibabel's get_fdata against the reader."""
    layout = Layout(study.prepare())
    shape, _ = volumes.grid(layout, study.subject)
    voxels = rois.mask(layout, study.subject)
    compressed = layout.betas(study.subject, 1, "nii.gz")
    inside = np.unravel_index(voxels, shape)
    return compare(
        f"one session of betas: get_fdata against the {file_format} reader",
        lambda: nibabel.load(compressed).get_fdata()[inside].T,
        lambda: read_session(layout.betas(study.subject, 1, file_format), voxels, shape),
    )


def bench_identification(n: int = 982, width: int = 2_048) -> dict:
    """Two-way identification: the published corrcoef against one matrix product."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((n, width)).astype(np.float32)
    found = truth + rng.standard_normal((n, width)).astype(np.float32)

    def plain() -> np.ndarray:
        correlation = np.corrcoef(truth, found)[:n, n:]
        return (correlation < np.diag(correlation)).sum(axis=0) / (n - 1)

    name = f"two-way identification, {n} images x {width}: corrcoef"
    return compare(name, plain, lambda: identify(truth, found))


def bench_sampler(study: Study, n: int = 16, steps: int = 10) -> dict:
    """The DDIM loop against the bare network calls that it cannot do without."""
    networks = load(study.networks)
    config, unet = networks.config.versatile, networks.image_unet
    noise = torch.randn(n, *config.image_latent_shape, generator=torch.Generator().manual_seed(0))
    empty = networks.clip.unconditional()
    contexts = {kind: tokens.expand(n, -1, -1) for kind, tokens in empty.items()}
    weights = {"image": 0.6, "text": 0.4}
    doubled = {k: (torch.cat([t, t]), weights[k]) for k, t in contexts.items()}

    def loop() -> None:
        with torch.no_grad():
            ddim(
                lambda x, t, c: image_flow(unet, x, t, c), None, contexts, empty, weights,
                config=config, noise=noise, steps=steps, guidance_scale=4.0,
            )  # fmt: skip

    def calls() -> None:
        with torch.no_grad():
            for t in plan_steps(steps)[1]:
                image_flow(unet, torch.cat([noise, noise]), t, doubled)

    name = f"sampling {n} images, {steps} steps: the loop against its bare calls"
    return compare(name, loop, calls)


def tutorial_table(study: Study) -> list[str]:
    """Seconds and peak memory of every notebook that has been run here."""
    lines = ["| notebook | seconds |", "|---|--:|"]
    for notebook in manifest.notebooks():
        record: Path = study.path("notebooks", f"{notebook.name}.run.json")
        if record.is_file():
            lines.append(f"| {notebook.name} | {json.loads(record.read_text())['seconds']} |")
    return lines


def main() -> None:
    """Run the benchmarks and print Markdown tables."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    study = Study(device="cpu")
    rows = [
        bench_ridge(),
        bench_reading(study, "nii.gz"),
        bench_reading(study, "hdf5"),
        bench_identification(),
        bench_sampler(study),
    ]
    print("| what | plain, CPU s | ours, CPU s | ratio | largest difference |")
    print("|---|--:|--:|--:|--:|")
    for row in rows:
        difference = "" if row["difference"] is None else f"{row['difference']:.1e}"
        print(
            f"| {row['what']} | {row['plain']:.3f} | {row['ours']:.3f} | {row['ratio']:.1f} "
            f"| {difference} |"
        )
    print("\n" + "\n".join(tutorial_table(study)))
    print(f"\nload average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
