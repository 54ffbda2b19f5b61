"""Extraction that is killed at any moment, and started again, gives the same bytes."""

import json
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import itertools, json, os, resource, signal, sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.ma  # which np.unique imports: here once, not in every child
from nbutils.decoding import features
from nbutils.networks.memory import PLANS

folder, ids = Path(sys.argv[1]), np.random.default_rng(1).permutation(40)[:7]
images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
networks = SimpleNamespace(
    plan=PLANS[-1],
    attempt=lambda work: work(PLANS[-1]),
    clip=SimpleNamespace(
        image_tokens=lambda pixels: pixels[:, 0] / 7,
        caption_tokens=lambda captions: np.array([[len(t) / 3 for t in row] for row in captions]),
    ),
    autokl=SimpleNamespace(encode=lambda pixels: pixels[:, 1:3, 2] / 255),
)
names = ["clip_image", "clip_text", "autokl"]


def run(folder):
    captions = [["word" * i, "x"] for i in range(1, 8)]
    features.extract(names, networks, images, captions, ids, folder, batch_size=4, progress=False)


def kill_at(moment):
    # Every step that touches the disk is a moment to die: before a sync, a rename, a removal.
    count = itertools.count()

    def dying(step):
        def wrapped(*args, **options):
            if next(count) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args, **options)
        return wrapped

    for name in ("fsync", "replace"):
        setattr(os, name, dying(getattr(os, name)))
    Path.unlink = dying(Path.unlink)


def in_child(work):
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def read(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


in_child(lambda: run(folder / "whole"))
expected, killed = read(folder / "whole"), 0
for moment in itertools.count():
    there = folder / str(moment)
    status = in_child(lambda: (kill_at(moment), run(there)))
    if os.WIFEXITED(status):
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    killed += 1
    for name in names:  # what bears the final name is whole, whenever the run died
        if (there / f"{name}.npy").exists():
            assert read(there)[f"{name}.npy"] == expected[f"{name}.npy"]
    assert in_child(lambda: run(there)) == 0
    assert read(there) == expected, moment


def measure():
    row = np.ones(1_000_000, np.float16)
    wide = lambda pixels: np.broadcast_to(row, (len(pixels), row.size))
    networks.clip = SimpleNamespace(image_tokens=wide)
    pictures, there = np.zeros((64, 4, 4, 3), np.uint8), folder / "large"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    features.extract(["clip_image"], networks, pictures, None, np.arange(64), there,
                     batch_size=4, progress=False)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    (folder / "grown").write_text(json.dumps(grown))


assert in_child(measure) == 0
size = (folder / "large" / "clip_image.npy").stat().st_size
grown = json.loads((folder / "grown").read_text())
found = {"killed": killed, "status": status, "files": sorted(expected)}
found["heavy"] = [one for one in ("diffusers", "transformers") if one in sys.modules]
print(json.dumps(found | {"grown": grown, "size": size}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Do it all in one interpreter, since libraries take long to import, and in its children."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"folder": folder}


def test_killed_at_any_moment_and_started_again_gives_the_same_bytes(found):
    assert found["status"] == 0 and found["killed"] >= 3 * 3 * 3
    names = ("autokl", "clip_image", "clip_text")
    files = [f"{name}{end}" for name in names for end in (".features.json", ".npy")]
    assert found["files"] == files
    assert np.load(found["folder"] / "whole" / "clip_image.npy").dtype == np.float16


def test_128_mb_of_features_are_written_in_a_few_batches_of_memory(found):
    # A batch is 8 MB; a written memory map would count its 128 MB of dirty pages.
    assert found["size"] > 128e6 and found["grown"] < 50


def test_who_stores_features_does_not_wait_for_the_libraries_of_networks(found):
    assert found["heavy"] == []
