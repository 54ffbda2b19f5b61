"""Fetch one subject: terms, estimate, small files, then sessions and images side by side."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from nbutils.artifacts import write_json
from nbutils.nsd.download.annotations import (
    KEY,
    annotation_files,
    annotations_whole,
    fetch_annotations,
)
from nbutils.nsd.download.betas import choose_voxels, claim_voxels, fetch_session
from nbutils.nsd.download.budget import Estimate, add_up
from nbutils.nsd.download.catalogue import Catalogue, Request, look_up
from nbutils.nsd.download.content import check_content
from nbutils.nsd.download.images import (
    brick_jobs,
    check_shared,
    coco_jobs,
    image_side,
    own_images,
)
from nbutils.nsd.download.servers import Servers
from nbutils.nsd.download.terms import require_terms
from nbutils.nsd.layout import Layout, subject_name
from nbutils.nsd.masked import record_path
from nbutils.nsd.surfaces import surface_files
from nbutils.transfer.crew import Job, run
from nbutils.transfer.files import fetch_file
from nbutils.transfer.ledger import Ledger
from nbutils.transfer.progress import Meter
from nbutils.transfer.transport import Entry, FetchError, Remote

ATLASES = ("nsdgeneral", "streams")
"""Atlases whose labelled voxels are kept of the betas unless others are named."""
_CONNECTIONS = 8
"""Small files and images asked for at the same time."""


@dataclass(frozen=True)
class Fetched:
    """What a fetch did.

    Attributes
    ----------
    root : folder of the data
    n_bytes : bytes that came over the network
    missing : keys that the server lacks and that one can do without
    """

    root: Path
    n_bytes: int
    missing: tuple[str, ...] = ()


def estimate(
    root: Path,
    subject: int,
    sessions: Iterable[int],
    *,
    accept_terms: bool = False,
    images: str | None = None,
    atlases: Iterable[str] | None = None,
    keep_raw: bool | None = None,
    surfaces: bool | None = None,
    servers: Servers | None = None,
) -> Estimate:
    """Say what :func:`fetch` with the same arguments would cost, and fetch nothing.

    Returns
    -------
    Estimate
    """
    require_terms(root, accept_terms)
    servers, ledger = servers or Servers(), Ledger(root)
    request = _request(ledger, subject, sessions, images, atlases, keep_raw, surfaces)
    with Meter(False) as meter:
        return _survey(servers, Layout(root), request, ledger, meter)[2]


def fetch(
    root: Path,
    subject: int,
    sessions: Iterable[int],
    *,
    accept_terms: bool = False,
    images: str | None = None,
    atlases: Iterable[str] | None = None,
    keep_raw: bool | None = None,
    surfaces: bool | None = None,
    replace: bool = False,
    workers: int = 4,
    progress: bool = True,
    servers: Servers | None = None,
    say: Callable[[str], None] | None = None,
) -> Fetched:
    """Fetch what decoding one subject needs, and nothing that is already whole.

    Whatever ends it (an error, Ctrl-C, a kill), the same call goes on: at the byte for files, at
    the session for betas.

    Parameters
    ----------
    root : folder that gets the bucket's own layout
    subject : 1 to 8
    sessions : numbers from 1
    accept_terms : that you read and accept NSD's terms; remembered in `root`
    images : "stimuli" (cut from NSD's file), "coco" (photographs cropped again: near, not
        identical) or "none"; the shared images come as NSD's own PNG files with either
    atlases : whose labelled voxels are kept of the betas; other atlases later need `replace`
    keep_raw : keep the ``.nii.gz`` files of the betas, 0.4 GB each
    surfaces : the subject's inflated cortex, to draw maps on, about 35 MB. None for these four
        takes what the last finished fetch of this subject had; without one, "stimuli",
        `ATLASES`, False and True
    replace : delete sessions that hold the voxels of other atlases, and fetch them again
    workers : sessions at a time; each needs about 50 MB of memory and one core
    progress : show a bar
    servers : where the data come from; NSD's and COCO's own by default
    say : called with sentences meant for the user

    Returns
    -------
    Fetched

    Raises
    ------
    TermsError
        If nobody accepted the terms; nothing was sent then.
    FetchError
        If something cannot be fetched, or the disk is too small.
    ValueError
        If an argument is impossible, or sessions on disk hold other voxels.
    """
    check_root(Path(root))
    require_terms(root, accept_terms)
    ledger, say = Ledger(root), say or (lambda sentence: None)
    request = _request(ledger, subject, sessions, images, atlases, keep_raw, surfaces)
    if workers < 1:
        raise ValueError(f"workers={workers}: give at least 1")
    try:
        with ledger.alone(), Meter(progress) as meter:
            if not replace and _done_before(ledger, request):
                say(f"everything of subject {subject} is there already")
                return Fetched(ledger.root, 0)
            work = _Work(request, servers or Servers(), ledger, meter, workers, replace)
            return work.do(say)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FetchError(
                f"the disk of {root} is full: free some space and run the same command again"
            ) from error
        raise


def _request(
    ledger: Ledger,
    subject: int,
    sessions: Iterable[int],
    images: str | None,
    atlases: Iterable[str] | None,
    keep_raw: bool | None,
    surfaces: bool | None,
) -> Request:
    """Say what is asked for; None means as the last finished fetch of this subject had it."""
    given = {"images": images, "atlases": atlases, "keep_raw": keep_raw, "surfaces": surfaces}
    chosen = {"images": "stimuli", "atlases": ATLASES, "keep_raw": False, "surfaces": True}
    chosen |= _read_request(ledger, subject)
    chosen |= {name: value for name, value in given.items() if value is not None}
    names = chosen["atlases"]
    names = (names,) if isinstance(names, str) else tuple(sorted(set(names)))
    numbers = tuple(int(n) for n in sessions)
    kinds = {name: chosen[name] for name in ("images", "keep_raw", "surfaces")}
    return Request(subject, numbers, atlases=names, **kinds)


def check_root(root: Path) -> None:
    """Keep real data out of a folder of simulated ones, where nobody could tell them apart.

    Raises
    ------
    ValueError
        If the folder is one of these.
    """
    for marker, what in ((".miniature", "the miniature world"), ("STANDIN.json", "a stand-in")):
        if (root / marker).exists():
            raise ValueError(f"{root} holds {what}: give another folder for NSD's data")


def _survey(
    servers: Servers, layout: Layout, request: Request, ledger: Ledger, meter: Meter
) -> tuple[Catalogue, Entry | None, Estimate]:
    """Ask both servers what they have, and add up what is wanted of it."""
    catalogue = look_up(servers.open_bucket(), layout, request, meter)
    archive = None
    if not annotations_whole(layout, ledger):
        archive = servers.open_coco().head(KEY, meter)
    return catalogue, archive, add_up(layout, request, catalogue, archive, ledger)


@dataclass
class _Work:
    """One fetch under way."""

    request: Request
    servers: Servers
    ledger: Ledger
    meter: Meter
    workers: int
    replace: bool
    layout: Layout = field(init=False)
    bucket: Remote = field(init=False)

    def __post_init__(self) -> None:
        self.layout, self.bucket = Layout(self.ledger.root), self.servers.open_bucket()

    def do(self, say: Callable[[str], None]) -> Fetched:
        catalogue, archive, cost = self._survey()
        say(str(cost))
        cost.require_space(self.ledger.root)
        self.meter.expect(cost.network)
        self.meter.name("masks, tables")
        run([(_CONNECTIONS, self._file_jobs(catalogue.files))], self.meter)
        # Now design and masks are here, so that the rest is known to the image and the voxel.
        target = choose_voxels(self.layout, self.request.subject, self.request.atlases)
        claim_voxels(target, self.ledger, self.replace)
        rest = add_up(self.layout, self.request, catalogue, archive, self.ledger)
        rest.require_space(self.ledger.root)
        self.meter.expect(self.meter.n_bytes + rest.network - cost.network)
        self.meter.name("betas, images")
        sessions = [
            partial(self._session, target, session, entry)
            for session, entry in catalogue.betas.items()
        ]
        run(
            [(self.workers, sessions), (_CONNECTIONS, self._others(catalogue, archive))], self.meter
        )
        self._write_request(catalogue)
        return Fetched(self.ledger.root, self.meter.n_bytes, catalogue.missing)

    def _survey(self) -> tuple[Catalogue, Entry | None, Estimate]:
        return _survey(self.servers, self.layout, self.request, self.ledger, self.meter)

    def _file_jobs(self, files: dict[Path, Entry]) -> list[Job]:
        return [
            partial(fetch_file, self.bucket, entry, path, self.ledger, self.meter, check_content)
            for path, entry in files.items()
        ]

    def _session(self, target: object, session: int, entry: Entry) -> None:
        raw = self.layout.betas(self.request.subject, session) if self.request.keep_raw else None
        fetch_session(self.bucket, entry, target, session, self.ledger, self.meter, raw)

    def _others(self, catalogue: Catalogue, archive: Entry | None) -> list[Job]:
        """Return the work on annotations and images; the largest file first."""
        jobs: list[Job] = []
        if archive is not None:
            jobs.append(
                partial(
                    fetch_annotations, self.servers.open_coco(), archive,
                    self.servers.annotations_sha1, self.layout, self.ledger, self.meter,
                )
            )  # fmt: skip
        if catalogue.shared:
            check_shared(self.layout, catalogue.shared, self.bucket.address)
            shared = {self.layout.image(i, "shared"): e for i, e in catalogue.shared.items()}
            jobs += self._file_jobs(shared) + self._own_images(catalogue)
        return jobs

    def _own_images(self, catalogue: Catalogue) -> list[Job]:
        ids = own_images(self.layout, self.request.subject, self.request.sessions)
        common = (self.layout, ids)
        if catalogue.brick is not None:
            return brick_jobs(self.bucket, catalogue.brick, *common, self.ledger, self.meter)
        # The photographs are cropped to the size of the shared images, so one of these comes first.
        first = dict(list(catalogue.shared.items())[:1])
        run([(1, self._file_jobs({self.layout.image(i, "shared"): e for i, e in first.items()}))],
            self.meter)  # fmt: skip
        side = image_side(self.layout, first)
        return coco_jobs(self.servers.open_coco(), *common, side, self.ledger, self.meter)

    def _write_request(self, catalogue: Catalogue) -> None:
        paths = wanted_paths(self.layout, self.request, catalogue)
        names = [self.ledger.name(path) for path in paths]
        before = _read_request(self.ledger, self.request.subject)
        now = json.loads(json.dumps(asdict(self.request)))
        # Those that this server lacks are asked for again, perhaps of another server.
        now["surfaces"] = now["surfaces"] and all(
            set(paths) <= catalogue.files.keys()
            for paths in surface_files(self.layout, self.request.subject).values()
        )
        if _same_kind(before, now) and _there(self.ledger, before):
            now["sessions"] = sorted({*before["sessions"], *now["sessions"]})
            now["surfaces"] = before["surfaces"] or now["surfaces"]
            names += before["paths"]
        write_json(
            request_path(self.ledger, self.request.subject), now | {"paths": sorted(set(names))}
        )


def wanted_paths(layout: Layout, request: Request, catalogue: Catalogue) -> list[Path]:
    """Return every file that a finished fetch leaves."""
    subject = request.subject
    paths = [*catalogue.files, *annotation_files(layout)]
    masked = [layout.betas(subject, session, "masked") for session in request.sessions]
    paths += [layout.masked_voxels(subject), *masked, *map(record_path, masked)]
    if request.keep_raw:
        paths += [layout.betas(subject, session) for session in request.sessions]
    paths += [layout.image(i, "shared") for i in catalogue.shared]
    if catalogue.shared:
        ids = own_images(layout, subject, request.sessions).tolist()
        paths += [layout.image(i, request.images) for i in ids]
    return paths


def request_path(ledger: Ledger, subject: int) -> Path:
    """Return where the last finished request for a subject is kept."""
    return ledger.folder / f"{subject_name(subject)}.json"


def _read_request(ledger: Ledger, subject: int) -> dict:
    try:
        found = json.loads(request_path(ledger, subject).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(found, dict) or "paths" not in found:
        return {}
    return {"surfaces": False} | found  # copies from before surfaces were fetched have none


def _same_kind(before: dict, now: dict) -> bool:
    return bool(before) and all(
        before.get(key) == now[key] for key in ("subject", "images", "atlases", "keep_raw")
    )


def _done_before(ledger: Ledger, request: Request) -> bool:
    """Return whether an earlier call brought all this and every file is as it left it.

    Then no request is sent, so that notebooks start without a network.
    """
    before = _read_request(ledger, request.subject)
    now = json.loads(json.dumps(asdict(request)))
    if not _same_kind(before, now) or not set(now["sessions"]) <= set(before["sessions"]):
        return False
    if now["surfaces"] and not before["surfaces"]:
        return False
    return _there(ledger, before)


def _there(ledger: Ledger, request: dict) -> bool:
    paths = (ledger.root / name for name in request["paths"])
    return all(ledger.whole(path) or _foreign(ledger, path) for path in paths)


def _foreign(ledger: Ledger, path: Path) -> bool:
    """Return whether a file is there that we never fetched (COCO's annotations, for instance)."""
    return ledger.name(path) not in ledger.records and path.is_file()
