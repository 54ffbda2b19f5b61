"""Whether an artifact is of the study that reads it: of its world, its subject, its parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nbutils import manifest
from nbutils.artifacts import ArtifactError
from nbutils.world import find_root

UPSTREAM = (
    *("sessions", "zscore", "alphas", "alpha_per", "preset", "n_train"),
    *("vdvae_layers", "weights"),
)
"""Parameters that decide what an earlier notebook computed; two notebooks must agree on them."""


def require_owner(
    path: Path, artifact: str, record: Mapping[str, Any], world: str, subject: int
) -> None:
    """Refuse an artifact of another world or subject, or one that bears another's name.

    Parameters
    ----------
    path : of the artifact
    artifact : "<kind>/<name>" that is asked for
    record : its sidecar
    world, subject : of the study

    Raises
    ------
    ArtifactError
    """
    made_for = (record.get("world"), record.get("subject"), record.get("artifact"))
    if made_for != (world, subject, artifact):
        raise ArtifactError(
            f"{path}: belongs to {made_for[2]} of world {made_for[0]}, subject {made_for[1]}; "
            "move it away and make the right one"
        )


def require_same(
    artifact: str, record: Mapping[str, Any], mine: Mapping[str, Any], chosen: Collection[str]
) -> None:
    """Refuse an artifact that was made with other parameters of those in `UPSTREAM`.

    Parameters
    ----------
    artifact : "<kind>/<name>"
    record : its sidecar
    mine : all parameters of the study
    chosen : those that the study's user set; only what both users set is compared

    Raises
    ------
    ArtifactError
    """
    theirs = record.get("parameters", {})
    held = set(UPSTREAM) & set(chosen) & set(record.get("set", ()))
    # What random weights made must never pass for a result, whoever reads it.
    held |= {"weights"} if theirs.get("weights") == "random" else set()
    for key in sorted(held):
        if theirs.get(key) != mine[key]:
            notebook = manifest.maker(artifact)
            again = f"run {notebook.name} again" if notebook else "make it again"
            raise ArtifactError(
                f"{artifact}: made with {key}={theirs.get(key)!r}, this study has "
                f"{key}={mine[key]!r}; {again}"
            )


def explain_missing(path: Path, artifact: str, world: str, subject: int, results: Path) -> str:
    """Say which notebook makes an artifact, and with which command.

    Parameters
    ----------
    path : where it was looked for
    artifact : "<kind>/<name>"
    world, subject, results : of the study
    """
    notebook = manifest.maker(artifact)
    if notebook is None:
        return f"{path}: not there, and no notebook is listed as making {artifact}"
    command = f"python -m nbutils run {notebook.number}"
    if world != "miniature" or subject != 1:
        command += f" --world {world} --subject {subject}"
    if results != find_root() / "results":
        command += f" --out {results}"
    return f"{path}: not there yet; {notebook.name} makes it (`{command}`)"
