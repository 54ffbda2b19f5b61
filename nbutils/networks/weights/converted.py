"""What a networks directory has of the published networks, and where it came from."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from nbutils.networks.checkpoints import SOURCES, files_of


def converted(directory: Path) -> dict[str, str]:
    """Name what a networks directory has, and the file that each network came from.

    Returns
    -------
    {name as in `SOURCES`: file name; "" where nobody wrote it down}
    """
    there = {
        name: [Path(directory) / file for file in files_of(name)]
        for name in SOURCES
        if all((Path(directory) / file).is_file() for file in files_of(name))
    }
    return {name: _origin(files[0]) for name, files in there.items()}


def _origin(path: Path) -> str:
    if path.suffix != ".safetensors":
        return path.name
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("source", "")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: convert it again") from error
