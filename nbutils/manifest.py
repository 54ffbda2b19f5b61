"""The list of notebooks, `notebooks/notebooks.yml`: what each asks, needs, leaves and costs."""

from __future__ import annotations

import ast
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Parameter:
    """One line `name: type = default` of a parameters cell; `annotation` is the type as written."""

    name: str
    annotation: str
    default: Any


@dataclass(frozen=True)
class Notebook:
    """One entry of the manifest.

    Attributes
    ----------
    name : str
        File name without suffix, `NN_verb_object`; the two digits give the order.
    question : str
        The one question it answers.
    inputs, outputs : tuple of str
        Artifacts as `kind/name.suffix`, relative to a subject's results.
    minutes : float
        Time on two CPU cores in the miniature world.
    memory : float
        Peak memory of the same run, GB.
    place : Path, optional
        Its folder, where that is not the manifest's.
    """

    name: str
    question: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    minutes: float
    memory: float
    place: Path | None = None

    @property
    def number(self) -> str:
        """The two digits that users type, `"03"`."""
        return self.name[:2]

    @property
    def path(self) -> Path:
        """The notebook's file."""
        return (self.place or folder()) / f"{self.name}.ipynb"

    def sources(self) -> list[tuple[str, list[str], str]]:
        """Return (cell type, tags, source) of each cell.

        Raises
        ------
        FileNotFoundError
            If the notebook is listed but not there.
        """
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: listed in notebooks.yml but not there")
        document = json.loads(self.path.read_text(encoding="utf-8"))
        return [
            (cell["cell_type"], cell["metadata"].get("tags", []), "".join(cell["source"]))
            for cell in document["cells"]
        ]

    def parameters(self) -> dict[str, Parameter]:
        """Return the lines of its parameters cell by name.

        Raises
        ------
        ValueError
            If there is not exactly one such cell, or a line is not `name: type = default`.
        """
        cells = [source for _, tags, source in self.sources() if "parameters" in tags]
        if len(cells) != 1:
            raise ValueError(f"{self.name}: {len(cells)} cells are tagged `parameters`, want one")
        return {line.name: line for line in map(self._read_line, ast.parse(cells[0]).body)}

    def _read_line(self, node: ast.stmt) -> Parameter:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            default = ast.literal_eval(node.value)
            return Parameter(node.target.id, ast.unparse(node.annotation), default)
        raise ValueError(
            f"{self.name}: `{ast.unparse(node)}` in the parameters cell; "
            "each line there is `name: type = default  # help`"
        )


@functools.cache
def folder() -> Path:
    """Return the folder of the notebooks: the checkout's, or the one inside an installed package.

    Raises
    ------
    FileNotFoundError
        If neither holds `notebooks.yml`.
    """
    for place in (PACKAGE.parent / "notebooks", PACKAGE / "notebooks"):
        if (place / "notebooks.yml").is_file():
            return place
    raise FileNotFoundError(
        f"{PACKAGE.parent / 'notebooks' / 'notebooks.yml'}: not there; clone the repository again"
    )


@functools.cache
def _document() -> dict:
    return yaml.safe_load((folder() / "notebooks.yml").read_text(encoding="utf-8"))


@functools.cache
def notebooks() -> tuple[Notebook, ...]:
    """Return all notebooks in the order in which they run: nearly that of their numbers."""
    entries = _document()["notebooks"]
    return tuple(
        Notebook(
            name=entry["name"],
            question=entry["question"],
            inputs=tuple(entry["inputs"]),
            outputs=tuple(entry["outputs"]),
            minutes=float(entry["minutes"]),
            memory=float(entry["memory_gb"]),
        )
        for entry in entries
    )


def highlights() -> dict[str, str]:
    """Return the artifacts that a finished run points at, as description -> artifact."""
    return dict(_document()["highlights"])


def quick() -> dict[str, Any]:
    """Return the parameters with which the test suite runs all notebooks."""
    return dict(_document()["quick"])


def find(word: str) -> Notebook:
    """Return the notebook that `word` means: `"3"`, `"03"` or `"03_fit_ridge"`.

    Raises
    ------
    ValueError
        If there is none.
    """
    word = str(word).removesuffix(".ipynb")
    for notebook in notebooks():
        if word == notebook.name or word.zfill(2) == notebook.number:
            return notebook
    known = ", ".join(notebook.number for notebook in notebooks())
    raise ValueError(f"notebook {word!r}: there are {known}")


def maker(artifact: str) -> Notebook | None:
    """Return the notebook that makes `artifact` (`kind/name.suffix`), or None if none says so."""
    for notebook in notebooks():
        if artifact in notebook.outputs:
            return notebook
    return None


def format_table() -> str:
    """Return the README's table of notebooks, in Markdown."""
    rows = ["| notebook | question | minutes | memory |", "|---|---|--:|--:|"]
    for notebook in sorted(notebooks(), key=lambda notebook: notebook.name):
        link = f"[{notebook.name}](notebooks/{notebook.name}.ipynb)"
        rows.append(
            f"| {link} | {notebook.question} | {notebook.minutes:g} | {notebook.memory:g} GB |"
        )
    return "\n".join(rows)
