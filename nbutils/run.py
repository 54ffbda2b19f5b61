"""Run notebooks in order by papermill: checked before, resumed, and held to their outputs."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError
from pydantic import ConfigDict, TypeAdapter, ValidationError
from tqdm import tqdm
from traitlets.config import Config

from nbutils import artifacts, manifest
from nbutils.manifest import Notebook
from nbutils.parameters import ParameterError
from nbutils.study import Study
from nbutils.world import PACKAGE, find_root

# Free TCP ports are found, let go, and taken: two runs at once may take the same and wait for ever.
# Sockets in the file system take their place where there are any and their names (about 100
# characters at most) fit.
_IPC = os.name != "nt" and len(tempfile.gettempdir()) < 70
_KERNEL = Config({"KernelManager": {"transport": "ipc" if _IPC else "tcp"}})
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


class RunError(RuntimeError):
    """A notebook stopped with an error, hid one in a widget, or left out one of its outputs."""


@dataclass(frozen=True)
class Job:
    """One notebook for one subject, with its parameters already checked."""

    notebook: Notebook
    study: Study
    parameters: dict[str, Any]

    @property
    def executed(self) -> Path:
        """Where the executed notebook goes."""
        return self.study.path("notebooks", f"{self.notebook.name}.ipynb")

    @property
    def failed(self) -> Path:
        """Where it goes when it fails, so that its traceback can be read."""
        return self.executed.with_suffix(".failed.ipynb")

    @property
    def record(self) -> Path:
        """Where the run's record lies, by which a later run sees that it can be skipped."""
        return self.executed.with_suffix(".run.json")


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    job: Job
    skipped: bool
    seconds: float


# --- before: what to run, and with what


def plan(
    words: Iterable[str | Notebook] = (),
    subjects: Iterable[int] = (1,),
    world: str = "miniature",
    parameters: dict[str, Any] | None = None,
    shared: Iterable[str] = (),
) -> list[Job]:
    """Check everything that can be checked before the first notebook starts.

    Parameters
    ----------
    words : str or Notebook
        Which notebooks, as `manifest.find` takes them; by default all.
    subjects : int
        1-based.
    world : str
        As in `Study`.
    parameters : dict, optional
        Further parameters. Each must be in the parameters cell of a chosen notebook, and reaches
        those that have it.
    shared : str
        Names among these that may also belong to notebooks of the list that were not chosen: those
        of a file that serves all of them.

    Returns
    -------
    list of Job
        All notebooks of the first subject, then of the next.

    Raises
    ------
    ParameterError
        If a name is in no chosen notebook, or a type or value is wrong.
    ValueError
        If there is no such notebook.
    """
    found = [word if isinstance(word, Notebook) else manifest.find(word) for word in words]
    order = [notebook.name for notebook in manifest.notebooks()]
    # Notebooks of no list (a test's) come as they are given, before the others.
    chosen = sorted(
        found or manifest.notebooks(),
        key=lambda one: order.index(one.name) if one.name in order else -1,
    )
    given = dict(parameters or {})
    declared = {notebook.name: notebook.parameters() for notebook in chosen}
    known = sorted({name for cell in declared.values() for name in cell})
    listed = {name for notebook in manifest.notebooks() for name in notebook.parameters()}
    for name in (listed & set(shared)) - set(known):
        given.pop(name, None)
    for name in given:
        if name not in known:
            where = " and ".join(notebook.number for notebook in chosen)
            raise ParameterError(f"{name}: not a parameter of {where}; known: {', '.join(known)}")
    everywhere = [{"world": world, "subject": subject, **given} for subject in subjects]
    return [
        _check_job(notebook, declared[notebook.name], values)
        for values in everywhere
        for notebook in chosen
    ]


def _check_job(notebook: Notebook, declared: dict, values: dict[str, Any]) -> Job:
    # Batch runs have nobody to move a slider; the static pictures show errors, widgets hide them.
    values = {"interactive": False, **values}
    values = {name: value for name, value in values.items() if name in declared}
    for name, value in values.items():
        _check_type(notebook, declared[name], value)
    defaults = {name: line.default for name, line in declared.items()}
    return Job(notebook, Study(**(defaults | values)), values)


def _check_type(notebook: Notebook, line: manifest.Parameter, value: Any) -> None:
    """Hold a value to the annotation in the notebook, which can be narrower than the study's."""
    try:
        TypeAdapter(line.annotation, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError:
        raise ParameterError(
            f"{line.name}={value!r}: {notebook.name} takes {line.annotation}"
        ) from None


# --- resuming


def hash_code(notebook: Notebook) -> str:
    """Return a hash over the notebook's cells and every module of the package."""
    digest = hashlib.sha256(repr(notebook.sources()).encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def hash_networks(folder: Path) -> str:
    """Return a hash over the files of a networks folder; an absent one has a hash too."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name} {artifacts.hash_file(path)}".encode())
    return digest.hexdigest()


def _hash_artifacts(study: Study, names: Iterable[str]) -> dict[str, str | None]:
    """Return the hash of each artifact as it lies there, None where it is absent or broken."""
    hashes: dict[str, str | None] = {}
    for name in names:
        kind, _, file = name.partition("/")
        try:
            hashes[name] = artifacts.read_sidecar(study.path(kind, file))["sha256"]
        except (artifacts.ArtifactError, OSError):
            hashes[name] = None
    return hashes


def _state(job: Job) -> dict[str, Any]:
    """Return everything a run depends on; two runs with equal states give equal results."""
    return {
        "notebook": job.notebook.name,
        "parameters": job.study.describe(),
        "code": hash_code(job.notebook),
        "networks": hash_networks(job.study.networks),
        "versions": artifacts.versions(),
        "inputs": _hash_artifacts(job.study, job.notebook.inputs),
    }


def is_done(job: Job) -> bool:
    """Tell whether this very job has finished and everything it left still lies there."""
    try:
        record = artifacts.read(job.record)
    except (OSError, ValueError):
        return False
    outputs = _hash_artifacts(job.study, job.notebook.outputs)
    return (
        job.executed.is_file()
        and None not in outputs.values()
        and record.get("outputs") == outputs
        and record.get("state") == _state(job)
    )


# --- running


def execute(job: Job, progress: bool = True) -> Outcome:
    """Run one notebook in a kernel of its own, or skip it if it is done.

    Parameters
    ----------
    job : Job
        From `plan`.
    progress : bool
        Show papermill's bar, one step a cell.

    Returns
    -------
    Outcome
        Whether it was skipped, and its seconds.

    Raises
    ------
    RunError
        If a cell fails, an error hides in a widget, or a declared output was not made. The
        notebook as far as it came then lies at `job.failed`.
    """
    if is_done(job):
        return Outcome(job, skipped=True, seconds=0.0)
    started = time.perf_counter()
    job.executed.parent.mkdir(parents=True, exist_ok=True)
    job.record.unlink(missing_ok=True)
    state = _state(job)
    temporary = job.executed.with_suffix(f".{os.getpid()}.part.ipynb")
    try:
        _run_papermill(job, temporary, progress)
        _check_finished(job, temporary)
        os.replace(temporary, job.executed)
    finally:
        if temporary.exists():
            os.replace(temporary, job.failed)
    job.failed.unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    outputs = _hash_artifacts(job.study, job.notebook.outputs)
    record = {"state": state, "outputs": outputs, "seconds": round(seconds, 1)}
    artifacts.write_json(job.record, record)
    return Outcome(job, skipped=False, seconds=seconds)


def _run_papermill(job: Job, target: Path, progress: bool) -> None:
    # A kernel called python3 in the user's home would otherwise win over this environment's.
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    try:
        papermill.execute_notebook(
            job.notebook.path,
            target,
            parameters=job.parameters,
            kernel_name="python3",
            language="python",
            cwd=str(find_root()),
            progress_bar={"desc": job.notebook.name, "leave": False} if progress else False,
            log_output=False,
            config=_KERNEL,
        )
    except PapermillExecutionError as error:
        raise RunError(
            f"{job.notebook.name}: cell {error.cell_index} stopped with {error.ename}: "
            f"{error.evalue} (see {job.failed})"
        ) from None


def find_hidden_errors(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the errors that nothing else reports: those inside widgets, and tolerated ones.

    An exception inside an `Output` widget goes to the widget's state, and the kernel carries on.
    """
    state = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    outputs = [output for model in state.values() for output in model["state"].get("outputs", [])]
    for cell in notebook.cells:
        outputs += cell.get("outputs", [])
    errors = [output for output in outputs if output.get("output_type") == "error"]
    return [f"{error['ename']}: {error['evalue']}" for error in errors]


def _check_finished(job: Job, target: Path) -> None:
    hidden = find_hidden_errors(nbformat.read(target, as_version=4))
    if hidden:
        raise RunError(
            f"{job.notebook.name}: an error hides in a widget: {hidden[0]} (see {job.failed})"
        )
    made = _hash_artifacts(job.study, job.notebook.outputs)
    missing = [name for name, found in made.items() if found is None]
    if missing:
        raise RunError(
            f"{job.notebook.name}: finished without making {', '.join(missing)}, "
            "which notebooks.yml promises"
        )


def run(
    jobs: list[Job], fresh: bool = False, say: Callable[[str], None] = tqdm.write
) -> list[Outcome]:
    """Run the jobs in order and say where the results lie.

    Parameters
    ----------
    jobs : list of Job
        From `plan`.
    fresh : bool
        Run again what is done already.
    say : callable
        Takes one line at a time.

    Returns
    -------
    list of Outcome
        One for each job.

    Raises
    ------
    RunError
        At the first notebook that fails.
    """
    outcomes = []
    for position, job in enumerate(jobs, start=1):
        label = f"[{position}/{len(jobs)}] {job.notebook.name}, subject {job.study.subject}"
        if fresh:
            job.record.unlink(missing_ok=True)
        outcome = execute(job)
        done = "done before, skipped" if outcome.skipped else f"{outcome.seconds:.0f} s"
        say(f"{label}: {done}")
        outcomes.append(outcome)
    for line in report(jobs):
        say(line)
    return outcomes


def report(jobs: list[Job]) -> list[str]:
    """Return the lines that end a run: where notebooks, picture grid and score table lie."""
    lines = []
    for folder in dict.fromkeys(job.executed.parent for job in jobs):
        lines.append(f"executed notebooks: {_shorten(folder)}")
        for what, artifact in manifest.highlights().items():
            if (path := folder.parent / artifact).is_file():
                lines.append(f"{what}: {_shorten(path)}")
    return lines


def _shorten(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
