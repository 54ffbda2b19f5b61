"""The small parts on their own: ledger, stretches, waits, remote files."""

import itertools
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbutils.nsd.download.betas import Target, claim_voxels
from nbutils.nsd.download.budget import Estimate, size
from nbutils.nsd.download.catalogue import Request
from nbutils.nsd.download.images import stretches
from nbutils.nsd.download.ledger import Ledger, hash_file
from nbutils.nsd.download.progress import Meter, Stopped
from nbutils.nsd.download.remote_hdf5 import RemoteFile
from nbutils.nsd.download.transport import Entry, FetchError, Retry


@given(st.sets(st.integers(0, 300), max_size=80), st.integers(1, 9))
def test_stretches_hold_every_image_once_and_no_other(numbers, longest):
    ids = np.array(sorted(numbers), np.int64)
    runs = [run for run in stretches(ids, longest) if len(run)]
    assert list(itertools.chain(*(run.tolist() for run in runs))) == ids.tolist()
    assert all((np.diff(run) == 1).all() and len(run) <= longest for run in runs)


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


@given(st.data())
def test_a_remote_file_reads_like_a_local_one(data):
    content = bytes(range(256)) * 3
    block = data.draw(st.integers(1, 300))

    class Memory:
        def read(self, entry, meter, start, stop):
            return content[start:stop]

    file = RemoteFile(Memory(), Entry("x", len(content), None), None, block, blocks=2)
    for _ in range(5):
        start, n = data.draw(st.integers(0, 800)), data.draw(st.integers(0, 400))
        file.seek(start)
        assert file.read(n) == content[start : start + n]
    assert file.seek(-3, os.SEEK_END) == len(content) - 3 and file.read() == content[-3:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"subject": 9}, "subjects 1 to 8"),
        ({"sessions": ()}, "whole numbers counted from 1"),
        ({"sessions": (0,)}, "counted from 1"),
        ({"sessions": (2, 1)}, "each session once, in order"),
        ({"images": "all"}, "stimuli, coco, none"),
        ({"atlases": ()}, "at least one"),
        ({"atlases": ("../x",)}, "at least one"),
    ],
)
def test_an_impossible_request_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Request(**({"subject": 1, "sessions": (1,)} | change))


def test_only_a_plain_etag_is_an_md5():
    plain = "0123456789abcdef0123456789abcdef"
    assert Entry("k", 1, f'"{plain}"').md5 == plain
    for etag in (f'"{plain}-5"', None, '"x"', f'W/"{plain}"'):
        assert Entry("k", 1, etag).md5 is None


def test_too_small_a_disk_is_one_sentence(tmp_path):
    with pytest.raises(FetchError, match=r"2 GB free and 10.\d+ GB|2 GB free and 11 GB"):
        Estimate(1, 1, 10**10, 2 * 10**9, True).require_space(tmp_path)
    Estimate(1, 1, 10**10, 12 * 10**9, True).require_space(tmp_path)
    assert size(943_440_000) == "943 MB" and size(0) == "0 B"


def test_sessions_of_other_voxels_are_kept_unless_replaced(tmp_path, world):
    layout = type(world)(tmp_path)
    layout.masked_voxels(1).parent.mkdir(parents=True)
    np.save(layout.masked_voxels(1), np.arange(5))
    layout.betas(1, 1, "masked").write_bytes(b"x")
    target = Target(layout, 1, np.arange(6), (9, 9, 9))
    with pytest.raises(ValueError, match="5 voxels, and these atlases label 6"):
        claim_voxels(target, Ledger(tmp_path), replace=False)
    assert layout.betas(1, 1, "masked").is_file()
    claim_voxels(target, Ledger(tmp_path), replace=True)
    assert not list(layout.masked_voxels(1).parent.iterdir())


def test_the_journal_is_one_object_a_line(undisturbed):
    for line in (undisturbed.root / ".fetch/files.jsonl").read_text().splitlines():
        assert {"path", "bytes", "mtime_ns", "sha256"} <= set(json.loads(line))
