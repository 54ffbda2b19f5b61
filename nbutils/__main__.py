"""The command line: `python -m nbutils`, and then one of the commands that `--help` lists."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from nbutils import bench_commands, nsd_commands, weights_commands


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def read_setting(text: str) -> tuple[str, Any]:
    """Read `key=value`; the value is YAML, so `true`, `[V1, V2]` and `null` mean what they say.

    Raises
    ------
    argparse.ArgumentTypeError
        If there is no `=`, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: write key=value")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{text!r}: the value is not YAML") from None
    if isinstance(parsed, str):
        try:
            parsed = float(parsed)  # YAML 1.1 reads 1e-3 as text
        except ValueError:
            pass
    return key.strip().replace("-", "_"), parsed


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m nbutils", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    tutorial = commands.add_parser("tutorial", help="run all notebooks on the miniature world")
    run = commands.add_parser("run", help="run notebooks, for one subject or several")
    run.add_argument("notebooks", nargs="*", help="such as 03 05; all by default")
    run.add_argument("--world", default="miniature", help="miniature (default) or nsd")
    run.add_argument("--subject", type=int, nargs="+", default=[1], help="1 (default), or several")
    for command in (tutorial, run):
        command.add_argument(
            "--set", type=read_setting, action="append", default=[], metavar="KEY=VALUE",
            dest="settings", help="a parameter of the notebooks; may be given again",
        )  # fmt: skip
        command.add_argument(
            "--parameters", type=Path, help="a YAML file of parameters; may serve all notebooks"
        )
        command.add_argument("--out", "--results", dest="results", help="folder of the results")
        command.add_argument("--data", help="folder of the brain data")
        command.add_argument("--fresh", action="store_true", help="run again what is done already")
    commands.add_parser("lab", help="open the notebooks in JupyterLab")
    commands.add_parser("info", help="list notebooks, worlds and versions")
    world = commands.add_parser("make-world", help="make the miniature brains now")
    world.add_argument("--subject", type=int, nargs="+", default=[1])
    world.add_argument("--data", help="folder to make them in")
    world.add_argument("--snr", type=float, default=1.0, help="factor on the signal")
    world.add_argument("--repeats", type=int, default=3, help="showings of each image, 1 to 3")
    nsd_commands.add_commands(commands)
    weights_commands.add_commands(commands)
    bench_commands.add_commands(commands)
    return parser


def _run(options: argparse.Namespace) -> None:
    from nbutils.run import plan, run

    given: dict[str, Any] = {}
    if options.parameters:
        given |= yaml.safe_load(options.parameters.read_text(encoding="utf-8")) or {}
    shared = given.keys() - dict(options.settings).keys()
    given |= dict(options.settings)
    given |= {key: value for key in ("results", "data") if (value := getattr(options, key))}
    world = given.pop("world", getattr(options, "world", "miniature"))
    subjects = getattr(options, "subject", [1])
    subjects = [given.pop("subject")] if "subject" in given else subjects
    jobs = plan(getattr(options, "notebooks", ()), subjects, world, given, shared)
    run(jobs, fresh=options.fresh, say=_say)


def _open_lab(options: argparse.Namespace) -> None:
    from nbutils.manifest import folder

    subprocess.run([sys.executable, "-m", "jupyterlab", str(folder())], check=True)


def _show_info(options: argparse.Namespace) -> None:
    from nbutils.artifacts import versions
    from nbutils.manifest import notebooks
    from nbutils.world import WORLDS, default_data

    for notebook in notebooks():
        _say(f"{notebook.name:<32} {notebook.question}")
    for world in WORLDS.values():
        _say(f"{world.name:<32} subjects {world.subjects}, data in {default_data(world)}")
    _say(", ".join(f"{name} {number}" for name, number in versions().items()))


def _make_world(options: argparse.Namespace) -> None:
    from nbutils.study import Study

    for subject in options.subject:
        chosen = {"data": options.data, "snr": options.snr, "repeats": options.repeats}
        study = Study(subject=subject, device="cpu", **chosen)
        _say(f"subject {subject}: {study.prepare()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status. What a user can mend ends in one sentence."""
    options = build_parser().parse_args(arguments)
    commands = {
        "tutorial": _run,
        "run": _run,
        "lab": _open_lab,
        "info": _show_info,
        "make-world": _make_world,
        "nsd": nsd_commands.run,
        "weights": weights_commands.run,
        "bench": bench_commands.run,
    }
    try:
        commands[options.command](options)
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        sys.stderr.write(f"nbutils: {error}\n")
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    except KeyboardInterrupt:
        sys.stderr.write("nbutils: stopped; the same command continues where this one ended\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
