"""The small parts on their own: ledger, stretches, waits, remote files."""

import io
import itertools
import json
import os
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbutils.nsd.download.betas import Target, claim_voxels
from nbutils.nsd.download.budget import Estimate
from nbutils.nsd.download.catalogue import Request
from nbutils.nsd.download.images import stretches
from nbutils.nsd.download.remote_hdf5 import RemoteFile, RemoteHDF5
from nbutils.transfer.ledger import Ledger
from nbutils.transfer.progress import Stopped
from nbutils.transfer.space import size
from nbutils.transfer.transport import Entry, FetchError


@given(st.sets(st.integers(0, 300), max_size=80), st.integers(1, 9))
def test_stretches_hold_every_image_once_and_no_other(numbers, longest):
    ids = np.array(sorted(numbers), np.int64)
    runs = [run for run in stretches(ids, longest) if len(run)]
    assert list(itertools.chain(*(run.tolist() for run in runs))) == ids.tolist()
    assert all((np.diff(run) == 1).all() and len(run) <= longest for run in runs)


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


def test_after_a_failure_a_remote_file_asks_no_more():
    asked = []

    class Failing:
        def read(self, entry, meter, start, stop):
            asked.append(start)
            raise KeyboardInterrupt

    file = RemoteFile(Failing(), Entry("x", 100, None), None)
    for _ in range(3):
        with pytest.raises(OSError, match="x cannot be read on"):
            file.read(10)
    assert asked == [0] and isinstance(file.take_failure(), KeyboardInterrupt)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, Stopped])
@pytest.mark.parametrize("seen", [OSError, KeyError, RuntimeError])
def test_a_failure_comes_through_whatever_error_hides_it(failure, seen):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["far"] = np.arange(300_000)  # its end lies in blocks that opening does not read
    content = buffer.getvalue()

    class Memory:
        fails = False

        def read(self, entry, meter, start, stop):
            if self.fails:
                raise failure
            return content[start:stop]

    remote = Memory()
    with pytest.raises(failure), RemoteHDF5(remote, Entry("x", len(content), None), None) as file:
        remote.fails = True
        with pytest.raises(OSError, match="cannot be read on"):
            file["far"][-1:]
        raise seen("what h5py, or whoever called it, made of that")


def test_an_error_without_a_failure_stays_as_it_is():
    buffer = io.BytesIO()
    h5py.File(buffer, "w").close()
    content = buffer.getvalue()
    memory = SimpleNamespace(read=lambda entry, meter, start, stop: content[start:stop])
    with (
        pytest.raises(KeyError, match="nothing"),
        RemoteHDF5(memory, Entry("x", len(content), None), None) as file,
    ):
        file["nothing"]


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
