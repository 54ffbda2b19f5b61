"""A server that falls silent: stopping does not wait for it, and what came is not lost.

Each server speaks again only when the test lets it, after the transfer has ended.
"""

import http.server
import threading
from types import SimpleNamespace

import pytest

from nbutils.transfer.crew import run
from nbutils.transfer.files import fetch_file, part_path
from nbutils.transfer.ledger import Ledger
from nbutils.transfer.progress import Meter, Stopped
from nbutils.transfer.transport import Entry, FetchError, Retry, open_http

CONTENT = bytes(range(256)) * 4000
SENT = 400_000  # bytes of the content before the silence
PATIENCE = Retry(attempts=2, first_wait=0.01, longest_wait=0.02, stall=600)
SOON = 60  # seconds; far from the 600 of the silence that is borne


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer("head")

    def do_GET(self):
        self.answer("get")

    def answer(self, verb):
        told = self.server.told
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        told.starts.append(start)
        self.fall_silent(verb)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("ETag", '"tag"')
        self.end_headers()
        if verb == "get":
            self.wfile.write(CONTENT[start:SENT])
            self.fall_silent("body")
            self.wfile.write(CONTENT[max(start, SENT) :])

    def fall_silent(self, where):
        told = self.server.told
        if told.where == where and not told.speak.is_set():
            told.silent.set()
            told.speak.wait(2 * PATIENCE.stall)


class Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that goes away is what this is about."""


@pytest.fixture
def server():
    running = Quiet(("127.0.0.1", 0), Handler)
    running.told = SimpleNamespace(
        where="", silent=threading.Event(), speak=threading.Event(), starts=[]
    )
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    running.told.url = f"http://127.0.0.1:{running.server_port}"
    yield running.told
    running.told.speak.set()
    running.shutdown()
    running.server_close()


def works(server, folder, meter):
    """Each way to wait for a server, by where it falls silent."""
    remote, entry = open_http(server.url, PATIENCE), Entry("a.bin", len(CONTENT), '"tag"')
    whole = lambda: fetch_file(remote, entry, folder / "a.bin", Ledger(folder), meter)  # noqa: E731
    return {
        "head": lambda: remote.head("a.bin", meter),
        "get": lambda: remote.read_whole("a.bin", meter),
        "body": whole,
    }


@pytest.mark.parametrize("where", ["head", "get", "body"])
def test_stopping_does_not_wait_for_a_silent_server(server, tmp_path, where):
    server.where, ends = where, []

    def work():
        try:
            works(server, tmp_path, meter)[where]()
        except BaseException as error:
            ends.append(type(error))

    with Meter(False) as meter:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert server.silent.wait(SOON)
        meter.stop()
        thread.join(SOON)
    assert not thread.is_alive() and ends == [Stopped]
    assert not server.speak.is_set() and len(server.starts) == 1


def test_a_part_that_silence_ended_goes_on_at_the_byte(server, tmp_path):
    server.where, entry = "body", Entry("a.bin", len(CONTENT), '"tag"')
    with Meter(False) as meter:

        def stop():
            server.silent.wait(SOON)
            while not meter.n_bytes:  # what came before the silence is on its way
                meter.wait(0.01)
            meter.stop()

        with pytest.raises(Stopped):
            run([(2, [works(server, tmp_path, meter)["body"], stop])], meter)
    assert not server.speak.is_set()
    part = part_path(tmp_path / "a.bin", entry).read_bytes()
    assert 0 < len(part) <= SENT and CONTENT.startswith(part)
    server.speak.set()
    with Meter(False) as meter:
        works(server, tmp_path, meter)["body"]()
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.starts == [0, len(part)]
    assert not list(tmp_path.glob("*.part"))


def test_a_failure_elsewhere_does_not_wait_for_a_silent_server(server, tmp_path):
    server.where = "get"

    def fail():
        server.silent.wait(SOON)
        raise FetchError("another file does not come")

    with Meter(False) as meter, pytest.raises(FetchError, match="another file"):
        run([(1, [works(server, tmp_path, meter)["get"]]), (1, [fail])], meter)
    assert not server.speak.is_set()


def test_silence_longer_than_is_borne_is_asked_again(server, tmp_path):
    server.where = "head"
    retry = Retry(attempts=2, first_wait=0.01, longest_wait=0.02, stall=1)
    with Meter(False) as meter, pytest.raises(FetchError, match="2 attempts without a byte"):
        open_http(server.url, retry).head("a.bin", meter)
    assert len(server.starts) == 2 and not server.speak.is_set()
