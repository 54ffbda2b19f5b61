"""Ledger, waits, tags and refusals of the transfer, with hardly a server."""

import http.server
import os
import threading

import pytest

from nbutils.transfer.files import ForeignError, fetch_file
from nbutils.transfer.ledger import Ledger, hash_file
from nbutils.transfer.progress import Meter, Stopped
from nbutils.transfer.space import require_space, size
from nbutils.transfer.transport import Entry, FetchError, Retry, open_http


def test_waits_double_with_jitter_up_to_a_limit():
    retry = Retry(first_wait=1, longest_wait=10)
    for failures, longest in ((1, 1), (2, 2), (3, 4), (9, 10)):
        waits = {retry.wait(failures) for _ in range(50)}
        assert all(longest / 2 <= wait <= longest for wait in waits) and len(waits) > 1


def test_a_torn_line_of_the_journal_is_passed_over(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
        Ledger(tmp_path).add(tmp_path / name, hash_file(tmp_path / name))
    journal = tmp_path / ".fetch/files.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    ledger = Ledger(tmp_path)
    assert ledger.whole(tmp_path / "a") and not ledger.whole(tmp_path / "b")
    with ledger.alone():
        assert len(journal.read_text().splitlines()) == 1
        ledger.add(tmp_path / "b", hash_file(tmp_path / "b"))
    assert Ledger(tmp_path).whole(tmp_path / "b")


def test_a_line_after_a_torn_one_is_not_lost(tmp_path):
    """Compacting before the first new line keeps the two apart."""
    (tmp_path / ".fetch").mkdir()
    (tmp_path / ".fetch/files.jsonl").write_text('{"path": "a", "byt')
    (tmp_path / "b").write_bytes(b"b")
    ledger = Ledger(tmp_path)
    with ledger.alone():
        ledger.add(tmp_path / "b", hash_file(tmp_path / "b"))
    assert Ledger(tmp_path).whole(tmp_path / "b")


def test_a_changed_file_of_the_same_size_is_not_whole(tmp_path):
    path, ledger = tmp_path / "a", Ledger(tmp_path)
    path.write_bytes(b"right")
    ledger.add(path, hash_file(path))
    path.write_bytes(b"wrong")
    os.utime(path, ns=(1, 1))
    assert not ledger.whole(path)


def test_a_copied_file_is_whole_though_its_time_differs(tmp_path):
    path, ledger = tmp_path / "a", Ledger(tmp_path)
    path.write_bytes(b"right")
    ledger.add(path, hash_file(path), Entry("key", 5, "tag"))
    os.utime(path, ns=(1, 1))
    assert ledger.whole(path, Entry("key", 5, "tag"))
    assert not ledger.whole(path, Entry("key", 5, "other"))


def test_two_processes_do_not_fetch_into_one_folder(tmp_path):
    with Ledger(tmp_path).alone(), pytest.raises(FetchError, match="another process"):
        with Ledger(tmp_path).alone():
            pass


def test_stopping_ends_waits_and_bytes():
    with Meter(False) as meter:
        meter.add(5)
        meter.stop()
        for call in (lambda: meter.add(1), lambda: meter.wait(60), meter.check):
            with pytest.raises(Stopped):
                call()


def test_only_a_plain_etag_is_an_md5():
    plain = "0123456789abcdef0123456789abcdef"
    assert Entry("k", 1, f'"{plain}"').md5 == plain
    for etag in (f'"{plain}-5"', None, '"x"', f'W/"{plain}"'):
        assert Entry("k", 1, etag).md5 is None


@pytest.fixture
def server():
    """A server with one file, "content", whose tag is weak; it notes the headers it gets."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        seen: list = []

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(b"")

        def do_GET(self):
            self.answer(b"content")

        def answer(self, body):
            self.seen.append({key.lower(): value for key, value in self.headers.items()})
            missing = self.path != "/folder/a.bin"
            self.send_response(404 if missing else 206 if "Range" in self.headers else 200)
            self.send_header("Content-Length", "0" if missing else "7")
            self.send_header("Content-Range", "bytes 0-6/7")
            self.send_header("ETag", 'W/"weak"')
            self.end_headers()
            self.wfile.write(b"" if missing else body)

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{running.server_port}/folder"
    retry = Retry(attempts=2, restarts=1, first_wait=0.01, longest_wait=0.02, stall=5)
    yield open_http(address, retry, {"Authorization": "Bearer t"}), Handler.seen
    running.shutdown()
    running.server_close()


def test_a_weak_tag_is_not_asked_to_match(server, tmp_path):
    remote, seen = server
    with Meter(False) as meter:
        entry = remote.head("a.bin", meter)
        fetch_file(remote, entry, tmp_path / "a.bin", Ledger(tmp_path), meter)
    assert (tmp_path / "a.bin").read_bytes() == b"content"
    assert [headers["authorization"] for headers in seen] == ["Bearer t"] * 2
    assert not any("if-match" in headers for headers in seen)


def test_a_file_that_is_not_there_is_said_at_once(server):
    remote, seen = server
    with Meter(False) as meter, pytest.raises(FileNotFoundError, match="has no b.bin"):
        remote.head("b.bin", meter)
    assert len(seen) == 1


def test_a_foreign_file_is_asked_for_once_and_leaves_nothing(server, tmp_path):
    def refuse(path, name, sha256):
        raise ForeignError(f"{name} is {sha256[:4]}")

    remote, seen = server
    with Meter(False) as meter, pytest.raises(ForeignError, match="a.bin is ed70"):
        entry = Entry("a.bin", 7, '"tag"')
        fetch_file(remote, entry, tmp_path / "a.bin", Ledger(tmp_path), meter, refuse)
    assert len(seen) == 1 and not list(tmp_path.iterdir())


def test_room_on_the_disk_has_a_margin(tmp_path):
    require_space(tmp_path, 0, 0, "do nothing")
    require_space(tmp_path, 10**9, 2 * 10**9, "do nothing")
    with pytest.raises(FetchError, match="1.5 GB free and 1.59 GB are needed: .* or wait"):
        require_space(tmp_path, 10**9, 15 * 10**8, "wait")
    assert size(943_440_000) == "943 MB" and size(0) == "0 B"
