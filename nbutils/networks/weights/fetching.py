"""Fetch published weights: asked for one by one, resumed at the byte, checked before they count.

One transport serves the hub and plain web servers (`nbutils.transfer`). The hub's `resolve`
addresses are redirected to its file servers, which answer ranges, so a cut download goes on at the
byte; a pinned commit and SHA-256 say that it is the file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from nbutils.networks.weights.faults import find_fault
from nbutils.networks.weights.folder import Found, compare, examine, look
from nbutils.networks.weights.registry import Weight
from nbutils.transfer.crew import run
from nbutils.transfer.files import ForeignError, fetch_file
from nbutils.transfer.ledger import Ledger
from nbutils.transfer.progress import Meter
from nbutils.transfer.space import free_bytes, require_space, size
from nbutils.transfer.transport import FetchError, Remote, Retry, open_http

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Hosts:
    """Where published weights come from.

    Attributes
    ----------
    hub : address of the hub or of a mirror of it
    endpoint : in the place of every server, the hub included (a mirror, a test)
    token : of an account on the hub, for files that ask for one
    retry : Retry
    """

    hub: str = HUB
    endpoint: str | None = None
    token: str | None = None
    retry: Retry = field(default_factory=Retry)

    @classmethod
    def from_environment(cls, endpoint: str | None = None) -> Hosts:
        """Take mirror and token from `HF_ENDPOINT` and `HF_TOKEN`, as the hub's own tools do."""
        return cls(
            os.environ.get("HF_ENDPOINT") or HUB, endpoint, os.environ.get("HF_TOKEN") or None
        )

    def open(self, weight: Weight) -> tuple[Remote, str]:
        """Return the server that has a file, and the file's key there."""
        if weight.on_hub:
            headers = {"Authorization": f"Bearer {self.token}"} if self.token else None
            server = open_http(self.endpoint or self.hub, self.retry, headers)
            return server, f"{weight.source}/resolve/{weight.revision}/{weight.path}"
        address = urlsplit(weight.source)
        server = self.endpoint or f"{address.scheme}://{address.netloc}"
        return open_http(server, self.retry), f"{address.path.strip('/')}/{weight.path}"


@dataclass(frozen=True)
class Plan:
    """What a fetch would do.

    Attributes
    ----------
    folder : of originals
    found : what it has of the weights that are asked for
    n_bytes : still to come, parts of earlier attempts taken off
    free : bytes free on the disk of the folder
    """

    folder: Path
    found: tuple[Found, ...]
    n_bytes: int
    free: int

    @property
    def missing(self) -> tuple[Weight, ...]:
        """What is to come."""
        return tuple(one.weight for one in self.found if one.state == "missing")

    @property
    def spoiled(self) -> tuple[Found, ...]:
        """Files that lie in the place of others, or are cut off."""
        return tuple(one for one in self.found if one.state in ("truncated", "foreign"))

    def __str__(self) -> str:
        count = len(self.missing)
        files = f"{count} {'file' if count == 1 else 'files'} to fetch"
        return f"{files}: {size(self.n_bytes)} into {self.folder} ({size(self.free)} free)"


def plan(weights: Iterable[Weight], folder: Path) -> Plan:
    """Look at the folder and add up what is missing; sends nothing."""
    folder = Path(folder)
    found = tuple(look(weights, folder))
    left = [max(0, one.weight.size - _part_size(one.path)) for one in found]
    wanted = (n for n, one in zip(left, found, strict=True) if one.state == "missing")
    return Plan(folder, found, sum(wanted), free_bytes(folder))


def _part_size(path: Path) -> int:
    return max(
        (part.stat().st_size for part in path.parent.glob(f".{path.name}.*.part")), default=0
    )


def fetch(
    weights: Iterable[Weight],
    folder: Path,
    *,
    hosts: Hosts | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Fetch what is missing in the folder, and check what lies there already.

    Parameters
    ----------
    weights : which, see `nbutils.networks.weights.registry.choose`
    folder : of originals
    hosts : where from
    progress : show a bar
    say : gets a sentence for each file

    Returns
    -------
    Plan, as it was before

    Raises
    ------
    FetchError
        If the disk is too small, a file does not come, or something else comes or lies there; the
        file is named and the error says what to do.
    """
    weights, ledger = tuple(weights), Ledger(Path(folder))
    hosts = hosts or Hosts.from_environment()
    # Where nothing is to come, a folder that others keep and we only read will do.
    with ledger.alone() if plan(weights, folder).missing else nullcontext():
        plans = plan(weights, folder)
        _refuse_spoiled(plans.spoiled)
        require_space(plans.folder, plans.n_bytes, plans.free, "name another disk with --folder")
        for one in plans.found:
            if one.state == "there":
                say(f"checking {one.path.name}, which lies there already")
                _refuse_spoiled([examine(one.weight, plans.folder, ledger)])
        with Meter(progress and bool(plans.missing)) as meter:
            work = partial(_fetch_all, plans, hosts, ledger, meter, say)
            _run(work, plans.folder, meter)
    return plans


def _run(work: Callable[[], None], folder: Path, meter: Meter) -> None:
    """Work on a thread, so that Ctrl-C is heard while bytes are waited for."""
    try:
        run([(1, [work])], meter)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise FetchError(
            f"the disk of {folder} is full: free some and run the same command again, which goes "
            "on where this one ended"
        ) from error


def _refuse_spoiled(found: Iterable[Found]) -> None:
    bad = [one for one in found if one.state in ("truncated", "foreign")]
    if bad:
        named = "; ".join(f"{one.path} is {one.state} ({one.note})" for one in bad)
        raise FetchError(f"{named}: remove it or put the published file there")


def _fetch_all(
    plans: Plan, hosts: Hosts, ledger: Ledger, meter: Meter, say: Callable[[str], None]
) -> None:
    meter.expect(sum(one.size for one in plans.missing))
    for weight in plans.missing:
        meter.name(weight.name)
        path = _fetch_one(weight, plans.folder, hosts, ledger, meter)
        say(f"{weight.name} is whole: {path}")


def _fetch_one(weight: Weight, folder: Path, hosts: Hosts, ledger: Ledger, meter: Meter) -> Path:
    remote, key = hosts.open(weight)
    path = folder / weight.place
    try:
        entry = remote.head(key, meter)
        if weight.exact and entry.size != weight.size:
            kind = "truncated" if entry.size < weight.size else "foreign"
            raise ForeignError(
                f"{weight.name} is {kind} on {remote.address} ({entry.size:,} bytes, published are "
                f"{weight.size:,}), so nothing was fetched: take another server"
            )
        fetch_file(remote, entry, path, ledger, meter, partial(_check, weight, ledger))
    except FetchError as error:
        if isinstance(error.__cause__, PermissionDeniedError | UnauthenticatedError):
            raise FetchError(
                f"{remote.address} does not give {weight.name} to everybody: accept its terms at "
                f"{weight.page} with your account and set HF_TOKEN to a token of it"
            ) from error
        raise
    except FileNotFoundError as error:
        raise FetchError(
            f"{error}: {weight.page} may have moved it; put the file at {path} by other means"
        ) from error
    return path


def _check(weight: Weight, ledger: Ledger, part: Path, name: str, sha256: str) -> bool:
    """Compare what came with what is published, or with what came the first time."""
    if complaint := compare(weight, sha256, ledger):
        raise ForeignError(
            f"what came as {weight.name} is foreign ({complaint}) and was thrown away: the server "
            "or the connection gives another file, take another one"
        )
    if weight.sha256 is None and (fault := find_fault(part, Path(name).suffix)):
        raise ForeignError(
            f"what came as {weight.name} {fault}, and was thrown away: take another server"
        )
    return weight.sha256 is not None
