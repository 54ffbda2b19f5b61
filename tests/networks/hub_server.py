"""A local server that answers like the hub: a redirection first, then a file server with ranges."""

import hashlib
import http.server
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """What the server has, what will go wrong, and what was asked for."""

    content: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers end
    rate: float | None = None  # bytes per second
    locked: set = field(default_factory=set)  # keys that need a token
    log: list = field(default_factory=list)
    port: int = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def put(self, weight, content):
        """Publish a file where `weight` is looked for."""
        if weight.on_hub:
            key = f"{weight.source}/resolve/{weight.revision}/{weight.path}"
        else:
            key = f"{urlsplit(weight.source).path.strip('/')}/{weight.path}"
        self.content[key] = content
        return key

    def asked(self, method="GET"):
        """First bytes that were asked of the servers of the files themselves."""
        ranges = [
            range_
            for verb, key, range_, _ in self.log
            if verb == method and (key.startswith("files/") or "/resolve/" not in key)
        ]
        return [int(one.removeprefix("bytes=").split("-")[0]) for one in ranges]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        hub, key = self.server.hub, unquote(urlsplit(self.path).path).lstrip("/")
        token = self.headers.get("Authorization")
        hub.log.append((self.command, key, self.headers.get("Range"), token))
        stored = key.removeprefix("files/")
        if stored not in hub.content:
            return self.short(404)
        if stored in hub.locked and not token and not key.startswith("files/"):
            return self.short(401)
        if "/resolve/" in key and not key.startswith("files/"):
            # Another name of this machine is another server: tokens must not go there.
            return self.short(302, f"http://localhost:{hub.port}/files/{key}?signed=1")
        self.send_file(hub, hub.content[stored], body)

    def send_file(self, hub, content, body):
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        if self.headers.get("If-Match") not in (None, etag):
            return self.short(412)
        start, stop = 0, len(content)
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{stop}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", etag)
        self.end_headers()
        if body:
            self.send_body(hub, content[start:])

    def send_body(self, hub, piece):
        cut = hub.cuts.pop(0) if hub.cuts else None
        self.close_connection = cut is not None
        piece = piece[:cut]
        step = len(piece) if hub.rate is None else max(1, int(hub.rate / 50))
        for at in range(0, len(piece), max(step, 1)):
            try:
                self.wfile.write(piece[at : at + step])
            except OSError:
                return
            time.sleep(0 if hub.rate is None else 0.02)

    def short(self, status, location=None):
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that goes away is what some tests are about."""


@contextmanager
def serving():
    """Run a hub while the block lasts."""
    server = Quiet(("127.0.0.1", 0), Handler)
    server.hub = Hub(port=server.server_port)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
