"""What an earlier fetch left, damaged or deleted or by other means, is found and made whole."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from nbutils.nsd.download import FetchError, accept, check, estimate, fetch
from nbutils.nsd.layout import Layout
from nbutils.nsd.masked import record_path
from nbutils.nsd.rois import label_table


def rot(path):
    """Flip one bit and keep size and time, as a bad disk does."""
    content, before = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGE = {
    "betas": (lambda layout: layout.betas(1, 1, "masked"), rot),
    "an atlas": (lambda layout: layout.roi(1, "streams"), rot),
    "the list of voxels": (lambda layout: layout.masked_voxels(1), rot),
    "an empty list of voxels": (
        lambda layout: layout.masked_voxels(1),
        lambda path: path.write_bytes(b""),
    ),
    "a record": (
        lambda layout: record_path(layout.betas(1, 1, "masked")),
        lambda path: path.write_text("{}"),
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_fetch_mends_what_check_found(site, tmp_path, what):
    site.fetch(tmp_path, (1, 2))
    find, damage = DAMAGE[what]
    path = find(Layout(tmp_path))
    good = path.read_bytes()
    damage(path)
    assert not check(tmp_path, 1, progress=False).whole
    site.fetch(tmp_path, (1, 2))
    assert check(tmp_path, 1, progress=False).whole
    assert path.read_bytes() == good


def test_a_lost_list_of_voxels_costs_no_session(site, tmp_path):
    site.fetch(tmp_path, (1, 2))
    Layout(tmp_path).masked_voxels(1).unlink()
    site.objects.log.clear()
    site.fetch(tmp_path, (1, 2))
    assert site.objects.asked("betas_session", "GET") == []
    assert check(tmp_path, 1, progress=False).whole


def test_raw_betas_brought_by_other_means_are_taken_as_they_are(site, tmp_path):
    layout, key = Layout(tmp_path), site.betas(1)
    site.objects.multipart.add(key)
    site.fetch(tmp_path, (2,))
    layout.betas(1, 1).write_bytes(site.objects.content[key])
    wanted = {"images": "none", "keep_raw": True}
    cost = estimate(tmp_path, 1, (1,), servers=site.servers(), **wanted)
    assert site.fetch(tmp_path, (1,), keep_raw=True).n_bytes == cost.network
    assert site.objects.asked(key, "GET") == []


def test_tables_and_maps_in_odd_places_come_too(site, tmp_path, world):
    content = site.objects.content
    content[site.key(world.volume(1, "prf_R2"))] = world.volume(1, "prf_size").read_bytes()
    content[site.key(world.root / "nsddata/templates/MTL.ctab")] = b"0 Unknown\n1 ERC\t\n"
    content[site.key(world.roi(1, "MTL"))] = world.roi(1, "streams").read_bytes()
    site.fetch(tmp_path)
    assert Layout(tmp_path).volume(1, "prf_R2").is_file()
    assert label_table(Layout(tmp_path), 1, "MTL") == {"ERC": 1}


def test_half_a_stimulus_file_is_no_set_of_images(site, tmp_path):
    path = Layout(tmp_path).stimuli()
    path.parent.mkdir(parents=True)
    content = site.objects.content[site.key(site.world.stimuli())]
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FetchError, match="or delete it"):
        site.fetch(tmp_path, (1,), images="stimuli")


def test_a_session_deleted_on_purpose_is_not_missed(site, tmp_path):
    site.fetch(tmp_path, (1, 2))
    path = Layout(tmp_path).betas(1, 2, "masked")
    path.unlink(), record_path(path).unlink()
    site.fetch(tmp_path, (1,))
    site.objects.log.clear()
    site.fetch(tmp_path, (1,))
    assert site.objects.log == []
    assert check(tmp_path, 1, progress=False).whole


def test_remains_of_a_killed_write_are_removed(site, tmp_path):
    folder = Layout(tmp_path).masked_voxels(1).parent
    folder.mkdir(parents=True)
    (folder / ".betas_session01.npy.1-2.part").write_bytes(b"torn")
    site.fetch(tmp_path)
    assert list(tmp_path.rglob("*.part")) == []


def test_a_notebook_takes_what_the_command_line_fetched(site, tmp_path):
    site.fetch(tmp_path, (1,), atlases=("nsdgeneral",), images="coco", keep_raw=True)
    site.objects.log.clear()
    fetch(tmp_path, 1, (1,), accept_terms=True, progress=False, servers=site.servers())
    assert site.objects.log == []


def command(folder, endpoint, coco, *more):
    where = ["--data", str(folder), "--endpoint", endpoint, "--coco", coco]
    return [sys.executable, "-m", "nbutils", "nsd", "fetch", *where, *more]


def test_ctrl_c_ends_a_fetch_that_waits_for_a_server_gone_away(tmp_path):
    accept(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        process = subprocess.Popen(
            command(tmp_path, url, url),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # A job in the background would inherit from its shell to ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        server.accept()[0].close()  # it has begun to list
        server.close()  # whoever connects from now on is refused, and waits to try again
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130


def test_a_fetch_goes_on_when_nobody_reads_its_bar(site, tmp_path, fault):
    site.objects.always[site.betas(1)] = fault(rate=500_000)
    read, write = os.pipe()
    wanted = ("--sessions", "1", "--images", "none", "--accept-terms")
    process = subprocess.Popen(
        command(tmp_path, site.url, site.coco, *wanted), stdout=subprocess.DEVNULL, stderr=write
    )
    os.close(write)
    while not site.objects.asked(site.betas(1), "GET"):
        assert process.poll() is None
    os.close(read)
    try:
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert Layout(tmp_path).betas(1, 1, "masked").is_file()


def test_the_estimate_asks_for_what_the_fetch_would(site, tmp_path):
    site.fetch(tmp_path, (1,), atlases=("nsdgeneral",), images="coco")
    cost = estimate(tmp_path, 1, (1,), servers=site.servers())
    assert (cost.n_files, cost.network) == (0, 0)
