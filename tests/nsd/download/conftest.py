"""A local server that answers like NSD's bucket and COCO's, and misbehaves when told to."""

import functools
import hashlib
import http.server
import io
import json
import threading
import time
import zipfile
from collections import deque
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import h5py
import numpy as np
import pytest
from PIL import Image

from nbutils.miniature.write import make
from nbutils.nsd import captions
from nbutils.nsd.download import Retry, Servers, fetch
from nbutils.nsd.layout import SPLITS, Layout
from nbutils.nsd.trials import design, trials

BUCKET, COCO = "natural-scenes-dataset", "coco"
PAGE = 40  # keys per page of a listing, so that pagination happens


@functools.lru_cache(maxsize=4096)
def md5(content):
    return hashlib.md5(content).hexdigest()  # bytes remember their hash, so this is found again


@dataclass
class Fault:
    """What goes wrong with one answer."""

    cut: int | None = None  # close the connection after so many bytes of the body
    status: int | None = None
    longer: int = 0  # Content-Length states so many bytes more than there are
    shorter: int = 0  # ... or fewer
    flip: int | None = None  # byte of the object that comes inverted
    rate: float | None = None  # bytes per second
    swap: bytes | None = None  # from now on the object is this
    no_range: bool = False  # answer a range with everything
    silent: threading.Event | None = None  # after `cut` bytes say no more until this is set


@dataclass
class Objects:
    """What the server has, what will go wrong, and what was asked for."""

    content: dict[str, bytes]
    once: dict[str, deque] = field(default_factory=dict)
    always: dict[str, Fault] = field(default_factory=dict)
    log: list = field(default_factory=list)
    multipart: set = field(default_factory=set)  # keys whose ETag is no MD5
    lists: threading.Event | None = None  # no folder is listed until this is set
    sent: int = 0

    def fail(self, key, *faults):
        self.once.setdefault(key, deque()).extend(faults)

    def asked(self, part="", method=None):
        return [one for one in self.log if part in one[1] and (method is None or one[0] == method)]

    def etag(self, key):
        digest = md5(self.content[key])
        return f'"{digest}-3"' if key in self.multipart else f'"{digest}"'

    def fault(self, key):
        if self.once.get(key):
            return self.once[key].popleft()
        return self.always.get(key, Fault())


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        objects, url = self.server.objects, urlsplit(self.path)
        key = unquote(url.path).lstrip("/")
        if "list-type" in url.query:
            return self.list(parse_qs(url.query))
        objects.log.append((self.command, key, self.headers.get("Range")))
        if key not in objects.content:
            return self.short(404)
        fault = objects.fault(key) if body else Fault()
        if fault.swap is not None:
            objects.content[key] = fault.swap
        if fault.status is not None:
            return self.short(fault.status)
        wanted = self.headers.get("If-Match")
        if wanted is not None and wanted != objects.etag(key):
            return self.short(412)
        self.send_object(key, fault, body)

    def send_object(self, key, fault, body):
        content = self.server.objects.content[key]
        start, stop = 0, len(content)
        if self.headers.get("Range") and not fault.no_range:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last) + 1, stop) if last else stop
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(stop - start + fault.longer - fault.shorter))
        self.send_header("ETag", self.server.objects.etag(key))
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        self.end_headers()
        if body:
            self.send_body(bytearray(content[start:stop]), start, fault)

    def send_body(self, piece, start, fault):
        if fault.flip is not None and start <= fault.flip < start + len(piece):
            piece[fault.flip - start] ^= 0xFF
        piece = bytes(piece[: len(piece) - fault.shorter][: fault.cut])
        step = len(piece) if fault.rate is None else max(1, int(fault.rate / 50))
        for at in range(0, len(piece), max(step, 1)):
            try:
                self.wfile.write(piece[at : at + step])
            except OSError:
                break
            self.server.objects.sent += step
            if fault.rate is not None:
                time.sleep(0.02)
        if fault.silent is not None:
            fault.silent.wait(600)
        if fault.cut is not None or fault.longer:
            self.close_connection = True

    def short(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def list(self, query):
        objects, prefix = self.server.objects, query.get("prefix", [""])[0]
        objects.log.append(("LIST", prefix, None))
        if objects.lists is not None:
            objects.lists.wait(600)
        keys = sorted(
            key.removeprefix(BUCKET + "/")
            for key in objects.content
            if key.startswith(f"{BUCKET}/{prefix}")
        )
        first = int(query.get("continuation-token", ["0"])[0])
        page, more = keys[first : first + PAGE], first + PAGE < len(keys)
        rows = "".join(self.row(key) for key in page)
        token = f"<NextContinuationToken>{first + PAGE}</NextContinuationToken>" if more else ""
        text = (
            f"<?xml version='1.0'?><ListBucketResult><IsTruncated>{str(more).lower()}"
            f"</IsTruncated><KeyCount>{len(page)}</KeyCount>{token}{rows}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def row(self, key):
        whole = f"{BUCKET}/{key}"
        return (
            f"<Contents><Key>{escape(key)}</Key><LastModified>2021-09-03T00:00:00.000Z"
            f"</LastModified><ETag>{escape(self.server.objects.etag(whole))}</ETag>"
            f"<Size>{len(self.server.objects.content[whole])}</Size></Contents>"
        )


class Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that goes away is what some tests are about."""


@dataclass
class Site:
    """A running server with a miniature world, and how to reach it."""

    objects: Objects
    world: Layout
    port: int

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def coco(self):
        return f"{self.url}/{COCO}"

    def servers(self, **changes):
        zipped = self.objects.content[f"{COCO}/annotations/annotations_trainval2017.zip"]
        given = {
            "endpoint": self.url,
            "coco": self.coco,
            "annotations_sha1": hashlib.sha1(zipped).hexdigest(),
            "retry": Retry(attempts=3, restarts=2, first_wait=0.01, longest_wait=0.02, stall=5),
        }
        return Servers(**(given | changes))

    def key(self, path):
        return f"{BUCKET}/{self.world.key(path)}"

    def betas(self, session):
        return self.key(self.world.betas(1, session))

    def fetch(self, root, sessions=(1,), **options):
        """Fetch quickly: no images unless asked for."""
        given = {"accept_terms": True, "images": "none", "progress": False, "workers": 2}
        given |= {"servers": self.servers()} | options
        return fetch(root, 1, sessions, **given)


SMALL = {"n_shared": 12, "n_private": 488, "voxel_scale": 0.1, "progress": False, "workers": 1}


@pytest.fixture(scope="session")
def world(tmp_path_factory, write_surface):
    """Subject 1 with 2 sessions, few shared images, surfaces, and a plain stimulus file."""
    layout = make(tmp_path_factory.mktemp("bucket") / "world", **SMALL)
    with h5py.File(layout.stimuli(), "r") as file:
        brick = file["imgBrick"][:]
    # NSD's images are never black, but those of other subjects were not drawn here.
    with h5py.File(layout.stimuli(), "w") as file:
        file.create_dataset("imgBrick", data=brick)
    for side, first in (("lh", 1), ("rh", 2)):
        write_surface(layout, first + np.arange(3 * 20 * 3).reshape(3, 20, 3) % 7, side)
    return layout


@pytest.fixture(scope="session")
def brick(world):
    with h5py.File(world.stimuli(), "r") as file:
        return file["imgBrick"][:]


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def photograph(image, crop):
    """A photograph that the crop of the stimulus table cuts `image` from, near enough."""
    top, bottom, left, right = crop
    side = image.shape[0]
    width, height = round(side / (1 - left - right)), round(side / (1 - top - bottom))
    canvas = np.full((height, width, 3), 90, np.uint8)
    y, x = round(top * height), round(left * width)
    canvas[y : y + side, x : x + side] = image
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def everything(world, brick):
    """All objects of the two servers, by path."""
    content = {
        f"{BUCKET}/{world.key(path)}": path.read_bytes()
        for folder in ("nsddata", "nsddata_betas", "nsddata_stimuli")
        for path in sorted((world.root / folder).rglob("*"))
        if path.is_file()
    }
    shared = f"{BUCKET}/nsddata_stimuli/stimuli/nsd/shared1000"
    for number, nsd_id in enumerate(design(world).shared.tolist(), start=1):
        content[f"{shared}/shared{number:04d}_nsd{nsd_id + 1:05d}.png"] = png(brick[nsd_id])
    table = captions.stim_info(world)
    shown = trials(world, 1, [1, 2])
    for nsd_id in np.unique(shown["nsd_id"][~shown["shared"]]).tolist():
        row = table.loc[nsd_id]
        key = f"{COCO}/{row['cocoSplit']}/{int(row['cocoId']):012d}.jpg"
        content[key] = photograph(brick[nsd_id], captions.read_crop(row["cropBox"]))
    content[f"{COCO}/annotations/annotations_trainval2017.zip"] = zip_annotations(world)
    return content


def zip_annotations(world, **more):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for split in SPLITS:
            for path in (world.captions(split), world.instances(split)):
                archive.write(path, f"annotations/{path.name}")
        archive.writestr("annotations/person_keypoints_val2017.json", json.dumps({"no": 1}))
        for name, text in more.items():
            archive.writestr(name, text)
    return buffer.getvalue()


@pytest.fixture
def site(world, everything):
    server = Quiet(("127.0.0.1", 0), Handler)
    server.objects = Objects(dict(everything))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield Site(server.objects, world, server.server_port)
    server.shutdown()
    server.server_close()


@pytest.fixture
def fault():
    return Fault


@pytest.fixture(scope="session")
def undisturbed(world, everything, tmp_path_factory):
    """What a fetch without trouble leaves: both sessions, with images."""
    server = Quiet(("127.0.0.1", 0), Handler)
    server.objects = Objects(dict(everything))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    root = tmp_path_factory.mktemp("undisturbed") / "nsd"
    Site(server.objects, world, server.server_port).fetch(root, (1, 2), images="stimuli")
    server.shutdown()
    server.server_close()
    return Layout(root)


@pytest.fixture
def contents():
    """Read all files of a fetched folder but the journal and what holds the time of day."""

    def read(root):
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and ".fetch" not in path.parts and not path.name.startswith(".nsd_")
        }

    return read
