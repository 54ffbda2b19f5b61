"""The command line of the published weights: `weights list | fetch | check | convert`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

ASK_FROM = 10**9
"""Bytes from which a person is asked before they are fetched."""
_FOLDER = "folder of originals; by default $NBUTILS_WEIGHTS, or data/weights"
_OUT = "networks folder; by default data/networks"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def add_commands(commands: Any) -> None:
    """Add `weights` and what it can do to the subparsers of the main command."""
    weights = commands.add_parser("weights", help="the published networks: list, fetch, convert")
    kinds = weights.add_subparsers(dest="weights", required=True)
    _add_list(kinds.add_parser("list", help="what there is, who needs it, and what is here"))
    _add_fetch(kinds.add_parser("fetch", help="download; goes on after any interruption"))
    check = kinds.add_parser("check", help="hash everything again: what is truncated or foreign")
    check.add_argument("--folder", type=Path, help=_FOLDER)
    check.add_argument("--out", type=Path, help=_OUT)
    _add_convert(kinds.add_parser("convert", help="to one safe format, once"))


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help="say everything that is known of these")
    parser.add_argument("--folder", type=Path, help=_FOLDER)
    parser.add_argument("--out", type=Path, help=_OUT)


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    from nbutils.networks.weights.registry import SYSTEMS

    parser.add_argument("names", nargs="*", help="as in `weights list`, or wordnet; all by default")
    parser.add_argument("--for", dest="system", choices=SYSTEMS, help="all that a system needs")
    parser.add_argument("--folder", type=Path, help=_FOLDER)
    parser.add_argument("--yes", action="store_true", help="do not ask before gigabytes")
    parser.add_argument("--dry-run", action="store_true", help="only say how much it would be")
    parser.add_argument("--offline", action="store_true", help="send nothing; say what is missing")
    parser.add_argument("--endpoint", metavar="URL", help="one server in the place of all others")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="*", metavar="NAME=FILE",
        help="such as versatile=vd-four-flow-v1-0.pth (names are in data/README.md); by default "
        "everything in the folder of originals that is not converted yet",
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, help=_FOLDER)
    parser.add_argument("--out", type=Path, help=_OUT)
    parser.add_argument("--half", action="store_true", help="write float16: half the disk")


def run(options: argparse.Namespace) -> None:
    """Do what one `weights` command asks."""
    {"list": _list, "fetch": _fetch, "check": _check, "convert": _convert}[options.weights](options)


def _folder(options: argparse.Namespace) -> Path:
    from nbutils.networks.weights.folder import default_folder

    return options.folder or default_folder()


def _out(options: argparse.Namespace) -> Path:
    from nbutils.world import find_root, find_world

    return options.out or find_root() / find_world("nsd").networks


def _list(options: argparse.Namespace) -> None:
    from nbutils.networks.weights.folder import look
    from nbutils.networks.weights.registry import WEIGHTS, find

    weights = [find(name) for name in options.names] or WEIGHTS
    found = look(weights, _folder(options))
    for one in found:
        _describe(one) if options.names else _say(_row(one))
    if not options.names:
        _say(f"originals in {_folder(options)}; `weights list NAME` says all that is known of one")


def _row(one: Any) -> str:
    from nbutils.transfer.space import size

    weight = one.weight
    needed = ", ".join(weight.systems) + _numbers(weight.notebooks)
    needed = f"instead of {weight.instead_of}" if weight.instead_of else needed
    licence = weight.licence.partition(" (")[0]
    return (
        f"{weight.name:<20} {size(weight.size):>7} {one.state:<9} {licence:<26} {needed}"
    ).rstrip()


def _numbers(notebooks: tuple[str, ...]) -> str:
    return f" (notebooks {' '.join(notebooks)})" if notebooks else ""


def _describe(one: Any) -> None:
    from nbutils.transfer.space import size

    weight = one.weight
    exact = f"{weight.size:,} bytes" if weight.exact else f"about {size(weight.size)}"
    facts = {
        "what": weight.what,
        "needed by": ", ".join(weight.systems) + _numbers(weight.notebooks),
        "instead of": weight.instead_of,
        "licence": weight.licence,
        "source": f"{weight.page} {weight.path}",
        "revision": weight.revision or "the source has none",
        "size": exact,
        "sha256": weight.sha256 or "not published: recorded at the first fetch, then enforced",
        "other names": weight.renamed,
        "becomes": weight.network,
        "here": f"{one.state} {one.note}".strip() + f", {one.path}",
    }
    _say(weight.name)
    for name, fact in facts.items():
        if fact:
            _say(f"  {name:<11} {fact}")


def _fetch(options: argparse.Namespace) -> None:
    from nbutils.networks.weights.fetching import Hosts, fetch, plan
    from nbutils.networks.weights.registry import choose

    folder = _folder(options)
    if "wordnet" in options.names:
        _fetch_wordnet(options)
        options.names = [name for name in options.names if name != "wordnet"]
        if not options.names and options.system is None:
            return
    weights = _without_stand_ins(choose(options.names, options.system), options.names, folder)
    planned = plan(weights, folder)
    offline = options.offline or os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "TRUE")
    if offline and planned.missing:
        _list_missing(planned)
    for weight in planned.missing:
        _say(f"{weight.name}: {weight.what}; licence {weight.licence}; {weight.page}")
    _say(str(planned))
    if options.dry_run:
        return
    if planned.n_bytes >= ASK_FROM and not options.yes:
        _ask(planned)
    hosts = Hosts.from_environment(options.endpoint)
    fetch(weights, folder, hosts=hosts, progress=sys.stderr.isatty(), say=_say)
    _say(f"{len(weights)} files are in {folder}; next: python -m nbutils weights convert --half")


def _fetch_wordnet(options: argparse.Namespace) -> None:
    """Let nltk fetch WordNet, once its licence is accepted."""
    from nbutils.metrics.wordnet import LICENCE, fetch_wordnet, has_wordnet, wordnet_folder

    offline = options.offline or options.dry_run
    if not has_wordnet() and offline:
        _say(f"missing: wordnet (11 MB), to be put at {wordnet_folder() / 'corpora/wordnet.zip'}")
        return
    accepts = options.yes or has_wordnet()
    if not accepts and sys.stdin.isatty():
        answer = input(f"WordNet is under {LICENCE}. Do you accept it? [y/N] ")
        accepts = answer.strip().lower() in ("y", "yes")
    try:
        _say(f"wordnet is in {fetch_wordnet(accept=accepts)}")
    except PermissionError:
        raise ValueError(
            f"WordNet was not fetched: read {LICENCE} and, if you accept it, add --yes"
        ) from None


def _without_stand_ins(weights: Any, named: list[str], folder: Path) -> list[Any]:
    """Leave out files that nobody named and in whose place another one is here already."""
    from nbutils.networks.weights.folder import choose_sources, look
    from nbutils.networks.weights.registry import WEIGHTS

    have, needed = choose_sources(look(WEIGHTS, folder)), []
    for one in look(weights, folder):
        weight = one.weight
        if one.state == "missing" and weight.network in have and weight.name not in named:
            _say(f"{weight.name} is not needed: {have[weight.network]} is here in its place")
        else:
            needed.append(weight)
    return needed


def _list_missing(planned: Any) -> None:
    from nbutils.networks.weights.folder import describe_missing
    from nbutils.transfer.space import size

    for line in describe_missing(planned.missing, planned.folder):
        _say(line)
    raise FileNotFoundError(
        f"{len(planned.missing)} files ({size(planned.n_bytes)}) are missing in {planned.folder} "
        "and nothing is fetched offline: put them at the places above, or name the folder that "
        "has them with --folder or $NBUTILS_WEIGHTS"
    )


def _ask(planned: Any) -> None:
    """Let a person agree to gigabytes; a batch job has --yes."""
    from nbutils.transfer.space import size

    if not sys.stdin.isatty():
        raise ValueError(
            f"{size(planned.n_bytes)} would be fetched and there is nobody to ask: add --yes"
        )
    answer = input(f"Fetch {size(planned.n_bytes)} into {planned.folder}? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise ValueError("the answer was not yes, so nothing was fetched")


def _check(options: argparse.Namespace) -> None:
    from nbutils.networks.weights.converted import converted
    from nbutils.networks.weights.folder import examine, look
    from nbutils.networks.weights.registry import WEIGHTS
    from nbutils.transfer.ledger import Ledger

    folder, bad = _folder(options), 0
    ledger, done = Ledger(folder), converted(_out(options))
    here = [one for one in look(WEIGHTS, folder, ledger) if one.state != "missing"]
    for one in here:
        one = examine(one.weight, folder, ledger)
        bad += not one.usable
        _say(f"{one.weight.name}: {one.state}" + (f", {one.note}" if one.note else ""))
    for name, origin in done.items():
        _say(f"{name} is converted" + (f" from {origin}" if origin else ""))
    _say(f"{len(here)} originals in {folder}, {len(done)} converted in {_out(options)}")
    if bad:
        raise RuntimeError(
            f"{bad} files in {folder} are truncated or foreign: remove them and `weights fetch` "
            "brings them again"
        )


def _convert(options: argparse.Namespace) -> None:
    import torch

    from nbutils.networks.checkpoints import convert_directory

    folder, sources = _out(options), dict(map(_read_source, options.sources))
    if not sources:
        sources = _unconverted(_folder(options), folder)
    if sources:
        dtype = torch.float16 if options.half else None
        convert_directory(sources, folder, dtype=dtype, say=_say)
    _say(f"converted {', '.join(sources) or 'nothing new'}: {folder}")


def _read_source(text: str) -> tuple[str, str]:
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise ValueError(f"{text!r}: write NAME=FILE, such as versatile=vd-four-flow-v1-0.pth")
    return name, file


def _unconverted(originals: Path, out: Path) -> dict[str, Path]:
    """Find what there is and is not converted yet; what lies there but is spoiled is said."""
    from nbutils.networks.weights.converted import converted
    from nbutils.networks.weights.folder import choose_sources, look
    from nbutils.networks.weights.registry import WEIGHTS

    here = [one for one in look(WEIGHTS, originals) if one.state != "missing"]
    here = [one for one in here if one.weight.network]
    if not here:
        raise FileNotFoundError(
            f"{originals} has no published weights: `python -m nbutils weights fetch` brings them, "
            "or name the folder with --folder or $NBUTILS_WEIGHTS"
        )
    done = converted(out)
    return choose_sources(_hashed(one, originals) for one in here if one.weight.network not in done)


def _hashed(one: Any, originals: Path) -> Any:
    """Hash a file that nobody hashed before, and say if it is spoiled."""
    from nbutils.networks.weights.folder import examine
    from nbutils.transfer.ledger import Ledger

    if one.state == "there":
        _say(f"checking {one.path}")
        one = examine(one.weight, originals, Ledger(originals))
    if not one.usable:
        _say(f"passed over: {one.path} is {one.state} ({one.note})")
    return one
