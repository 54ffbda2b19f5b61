"""The command line of the real data: `python -m nbutils nsd terms | fetch | check | synthesize`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

_DATA = "folder of the data; by default data/nsd, or nsd in $NBUTILS_DATA"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def add_commands(commands: Any) -> None:
    """Add `nsd` and what it can do to the subparsers of the main command."""
    nsd = commands.add_parser("nsd", help="the Natural Scenes Dataset: terms, fetch, check")
    kinds = nsd.add_subparsers(dest="nsd", required=True)
    kinds.add_parser("terms", help="show the terms of the data and where the access form is")
    _add_fetch(kinds.add_parser("fetch", help="download subjects; goes on after any interruption"))
    check = kinds.add_parser("check", help="hash everything again: what is missing or damaged")
    check.add_argument("--subject", type=int, nargs="+", default=[1], help="1 to 8; 1 by default")
    check.add_argument("--data", type=Path, help=_DATA)
    make = kinds.add_parser("synthesize", help="make a simulated stand-in of real size")
    make.add_argument("--like", default="subj01", help="subj01 (default) to subj08")
    make.add_argument("--sessions", type=int, default=1, help="how many; 1 by default")
    make.add_argument("--data", type=Path, required=True, help="an empty folder")
    make.add_argument("--hdf5", action="store_true", help="write the betas as HDF5 files too")
    make.add_argument("--seed", type=int, default=0, help="another seed is another brain")


def _add_fetch(fetch: argparse.ArgumentParser) -> None:
    fetch.add_argument("--subject", type=int, nargs="+", default=[1], help="1 to 8; 1 by default")
    fetch.add_argument(
        "--sessions", default="full",
        help="such as 1-10 or 1,3,7-9, or classic (all but the last three), or full (default)",
    )  # fmt: skip
    fetch.add_argument("--data", type=Path, help=_DATA)
    fetch.add_argument(
        "--images", choices=("stimuli", "coco", "none"), default="stimuli",
        help="the subject's own images: stimuli (default) are what was shown; coco crops COCO's "
        "photographs again, which is near but not identical",
    )  # fmt: skip
    fetch.add_argument(
        "--atlases", nargs="+", default=["nsdgeneral", "streams"],
        help="keep the voxels that any of these label (default: nsdgeneral streams)",
    )  # fmt: skip
    fetch.add_argument("--keep-raw", action="store_true", help="keep the .nii.gz of the betas")
    fetch.add_argument(
        "--surfaces", action=argparse.BooleanOptionalAction,
        help="the subject's inflated cortex, to draw maps on, about 35 MB; by default with the "
        "first fetch of a subject, and later as that one was",
    )  # fmt: skip
    fetch.add_argument("--replace", action="store_true", help="drop sessions of other atlases")
    fetch.add_argument("--workers", type=int, default=4, help="sessions at a time; 4 by default")
    fetch.add_argument("--accept-terms", action="store_true", help="you read and accept the terms")
    fetch.add_argument("--dry-run", action="store_true", help="only say how much it would be")
    mirror = fetch.add_argument_group("another server of the same layout (a mirror, a test)")
    mirror.add_argument("--endpoint", metavar="URL", help="its address, without the bucket's name")
    mirror.add_argument("--coco", metavar="URL", help="in place of http://images.cocodataset.org")
    mirror.add_argument("--coco-sha1", metavar="HEX", help="of its zip; by default not compared")


def run(options: argparse.Namespace) -> None:
    """Do what one `nsd` command asks."""
    {"terms": _terms, "fetch": _fetch, "check": _check, "synthesize": _synthesize}[options.nsd](
        options
    )


def _data(options: argparse.Namespace) -> Path:
    from nbutils.world import default_data, find_world

    return options.data or default_data(find_world("nsd"))


def _terms(options: argparse.Namespace) -> None:
    from nbutils.nsd.download import TERMS

    _say(TERMS)


def _agree(root: Path, accepts: bool) -> None:
    """Show the terms and let the user accept them, once for each copy of the data."""
    from nbutils.nsd.download import PHRASE, TERMS, TermsError, accept, accepted, require_terms

    if accepted(root):
        return
    if not accepts and not sys.stdin.isatty():
        require_terms(root, False)
    _say(TERMS)
    if not accepts:
        answer = input(f'Type "{PHRASE}" if you read the terms themselves and accept them: ')
        if answer.strip(" \"'.").lower() != PHRASE.lower():
            raise TermsError("the terms were not accepted, so nothing was fetched")
    accept(root)


def _fetch(options: argparse.Namespace) -> None:
    from nbutils.nsd.download import check_root, estimate, fetch
    from nbutils.world import find_world

    root = _data(options)
    # Before the terms: whoever mistyped should not have to accept them first.
    plan = {one: find_world("nsd").session_numbers(one, options.sessions)
            for one in _subjects(options)}  # fmt: skip
    check_root(root)
    _agree(root, options.accept_terms)
    choices = {
        "images": options.images,
        "atlases": options.atlases,
        "keep_raw": options.keep_raw,
        "surfaces": options.surfaces,
        "servers": _servers(options),
    }
    for subject, sessions in plan.items():
        if options.dry_run:
            _say(f"subject {subject}: {estimate(root, subject, sessions, **choices)}")
            continue
        done = fetch(
            root, subject, sessions, workers=options.workers, replace=options.replace,
            say=lambda line, subject=subject: _say(f"subject {subject}: {line}"), **choices,
        )  # fmt: skip
        _say(f"subject {subject}: {len(sessions)} sessions in {done.root}")
        for key in done.missing:
            _say(f"subject {subject}: the server has no {key}, which one can do without")


def _subjects(options: argparse.Namespace) -> list[int]:
    from nbutils.nsd.layout import subject_name

    for subject in options.subject:
        subject_name(subject)
    return options.subject


def _servers(options: argparse.Namespace) -> Any:
    from nbutils.nsd.download import Servers

    given: dict[str, Any] = {}
    if options.endpoint:
        given["endpoint"] = options.endpoint
    if options.coco:
        given |= {"coco": options.coco, "annotations_sha1": options.coco_sha1}
    return Servers(**given)


def _check(options: argparse.Namespace) -> None:
    from nbutils.nsd.download import check

    root, bad = _data(options), []
    for subject in _subjects(options):
        found = check(root, subject)
        _say(f"subject {subject}: {found.n_files:,} files are whole, {found.n_bytes:,} bytes")
        bad += [f"missing: {name}" for name in found.missing]
        bad += [f"damaged: {name}" for name in found.damaged]
    for line in bad:
        _say(line)
    if bad:
        raise RuntimeError(
            f"{len(bad)} files in {root} are missing or damaged: the same `nsd fetch` as before "
            "brings them again"
        )


def _synthesize(options: argparse.Namespace) -> None:
    from nbutils.miniature.standin import synthesize

    formats = ("nii.gz", "hdf5") if options.hdf5 else ("nii.gz",)
    made = synthesize(
        options.data, options.like, options.sessions, formats=formats, seed=options.seed
    )
    _say(f"a stand-in like {options.like} is in {made.root}")
