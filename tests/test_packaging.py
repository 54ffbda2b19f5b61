"""pyproject, lock, environment file and citation say the same; nothing undeclared is imported."""

import ast
import os
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from nbutils.manifest import notebooks

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
DIRECT = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRA = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
# Used where they are installed; the package works without them.
OPTIONAL = [
    Requirement(line)
    for extra in ("fast", "metrics")
    for line in PROJECT["optional-dependencies"][extra]
]
PLATFORMS = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}


def locked(python, platform):
    """Return name -> version of the lock for one Python and platform."""
    environment = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": platform,
        "platform_system": PLATFORMS[platform],
        "os_name": "nt" if platform == "win32" else "posix",
    }
    lines = [Requirement(line) for line in LOCK]
    chosen = [line for line in lines if not line.marker or line.marker.evaluate(environment)]
    return {canonicalize_name(line.name): str(line.specifier)[2:] for line in chosen}


def test_lock_holds_pins_only():
    pin = re.compile(r"^[a-z0-9][a-z0-9.-]*==[0-9][0-9a-z.]*( ; .+)?$")
    assert [line for line in LOCK if not pin.match(line)] == []


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_lock_fits_the_declared_ranges(python, platform):
    pins = locked(python, platform)
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")
    for requirement in DIRECT + EXTRA:
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} but {version} is locked"


def test_lock_names_everything_that_gets_installed():
    pins = locked(f"{sys.version_info.major}.{sys.version_info.minor}", sys.platform)
    seen, waiting = set(), [canonicalize_name(line.name) for line in DIRECT + EXTRA]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        assert name in pins, f"{name} is needed but not locked"
        try:
            needed = distribution(name).requires or []
        except PackageNotFoundError:  # an extra that this environment left out
            continue
        for line in map(Requirement, needed):
            if not line.marker or line.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(line.name))


def test_conda_environment_installs_the_same_lock():
    document = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = document["dependencies"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    python = next(line for line in conda if line.startswith("python=")).partition("=")[2]
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    assert document["name"] == PROJECT["name"]


def imported(source):
    """Return the top-level names that a piece of code imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"nbutils"}


def undeclared(names, requirements):
    declared = {canonicalize_name(line.name) for line in requirements}
    owners = packages_distributions()
    return {
        name
        for name in names
        if not declared & {canonicalize_name(owner) for owner in owners.get(name, [])}
    }


def test_everything_the_package_imports_is_declared():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "nbutils").rglob("*.py")]
    assert undeclared(set().union(*map(imported, sources)), DIRECT + OPTIONAL) == set()


def test_everything_the_notebooks_import_is_declared():
    code = [
        re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M)
        for notebook in notebooks()
        for kind, _, source in notebook.sources()
        if kind == "code"
    ]
    assert undeclared(set().union(*map(imported, code)) - {"google"}, DIRECT) == set()


def test_everything_the_tests_import_is_declared():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    local = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"tests"}
    names = set().union(*map(imported, sources)) - local
    assert undeclared(names, DIRECT + EXTRA) == set()


def test_version_is_the_same_everywhere():
    version = PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, re.M).group(1) == version


def test_ci_runs_the_command_that_the_readme_gives():
    script = ROOT / ".ci" / "run"
    assert os.name == "nt" or os.access(script, os.X_OK)
    assert "make test" in script.read_text().splitlines()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\nmake tutorial" in readme and "\nmake test" in readme


def test_local_links_of_the_readme_lead_somewhere():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", readme)
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert re.search(r"!\[[^\]]{40,}\]\(docs/readme_grid\.png\)", readme), "the picture's alt text"
