"""Imports point one way, and no module stands outside the layers."""

import tomllib
from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).resolve().parent.parent


def read_layers():
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [contract] = document["tool"]["importlinter"]["contracts"]
    return [name.strip() for layer in contract["layers"] for name in layer.split(":")]


def test_import_layers_hold():
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS


def test_every_module_belongs_to_a_layer():
    package = ROOT / "nbutils"
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    folders = {path.name for path in package.iterdir() if (path / "__init__.py").is_file()}
    assert {f"nbutils.{name}" for name in modules | folders} == set(read_layers())
