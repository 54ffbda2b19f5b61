"""Fetching published weights from a local server that answers like the hub, and misbehaves."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from hub_server import serving
from test_weights import checkpoint, put, small

from nbutils.networks.weights import fetching
from nbutils.networks.weights.fetching import Hosts, plan
from nbutils.networks.weights.folder import describe_missing, examine
from nbutils.networks.weights.registry import find
from nbutils.transfer.ledger import Ledger
from nbutils.transfer.transport import FetchError, Retry

CONTENT = checkpoint(a=torch.arange(100_000.0))
PATIENT = Retry(attempts=3, restarts=1, first_wait=0.01, longest_wait=0.02, stall=5)


@pytest.fixture
def hub():
    with serving() as hub:
        yield hub


def fetch(weights, folder, hub, **options):
    said = []
    hosts = Hosts(hub.url, hub.url, options.pop("token", None), PATIENT)
    fetching.fetch(weights, folder, hosts=hosts, progress=False, say=said.append, **options)
    return said


def test_a_cut_download_goes_on_at_the_byte(hub, tmp_path):
    weight = small("kl-f8", CONTENT)
    hub.put(weight, CONTENT)
    hub.cuts = [140_000, 140_000]
    said = fetch([weight], tmp_path, hub)
    path = tmp_path / "versatile-diffusion/pretrained_pth/kl-f8.pth"
    assert path.read_bytes() == CONTENT and said == [f"kl-f8 is whole: {path}"]
    assert hub.asked() == [0, 140_000, 280_000]
    assert Ledger(tmp_path).records[weight.place]["sha256"] == weight.sha256
    hub.log.clear()
    fetch([weight], tmp_path, hub)
    assert not hub.log


def test_the_transfer_of_a_killed_fetch_is_continued_by_the_next(hub, tmp_path):
    weight = small("kl-f8", CONTENT)
    hub.put(weight, CONTENT)
    hub.cuts = [150_000, 0, 0]
    with pytest.raises(FetchError, match="run the same command again"):
        fetch([weight], tmp_path, hub)
    assert plan([weight], tmp_path).n_bytes == len(CONTENT) - 150_000
    hub.log.clear()
    fetch([weight], tmp_path, hub)
    assert hub.asked() == [150_000]


def test_a_shorter_file_on_the_server_is_called_truncated_and_not_fetched(hub, tmp_path):
    weight = small("kl-f8", CONTENT)
    hub.put(weight, CONTENT[:-5])
    with pytest.raises(FetchError, match=r"kl-f8 is truncated on .*published are 4"):
        fetch([weight], tmp_path, hub)
    assert not hub.asked()


def test_another_content_is_called_foreign_and_thrown_away(hub, tmp_path):
    weight = small("kl-f8", CONTENT)
    hub.put(weight, CONTENT[:-1] + b"?")
    with pytest.raises(FetchError, match=r"came as kl-f8 is foreign \(SHA-256 .*as published"):
        fetch([weight], tmp_path, hub)
    assert len(hub.asked()) == 1
    assert not [path for path in tmp_path.rglob("*kl-f8*")]


def test_a_recorded_hash_is_enforced_at_the_second_fetch(hub, tmp_path):
    weight = small("vdvae", CONTENT, sha256=None, exact=False)
    hub.put(weight, CONTENT)
    fetch([weight], tmp_path, hub)
    (tmp_path / weight.place).unlink()
    hub.put(weight, checkpoint(a=torch.zeros(100_000)))
    with pytest.raises(FetchError, match="as recorded at the first fetch"):
        fetch([weight], tmp_path, hub)
    hub.put(weight, CONTENT)
    fetch([weight], tmp_path, hub)
    assert (tmp_path / weight.place).read_bytes() == CONTENT


def test_a_web_page_in_the_place_of_an_unpublished_hash_is_refused(hub, tmp_path):
    weight = small("vdvae", CONTENT, sha256=None, exact=False)
    hub.put(weight, b"<html>please log in</html>" * 100)
    with pytest.raises(FetchError, match="came as vdvae is a web page"):
        fetch([weight], tmp_path, hub)
    assert not (tmp_path / weight.place).exists()


def test_a_token_goes_to_the_hub_and_not_to_its_file_server(hub, tmp_path):
    weight = small("sd-unet", CONTENT)
    hub.locked = {hub.put(weight, CONTENT)}
    with pytest.raises(
        FetchError, match=r"accept its terms at https://huggingface.co/CompVis.*HF_TOKEN"
    ):
        fetch([weight], tmp_path, hub)
    fetch([weight], tmp_path, hub, token="secret")
    with_token = {key.startswith("files/") for *_, key, _, token in hub.log if token}
    assert with_token == {False}


def test_hub_and_token_are_those_of_the_hubs_own_tools(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror")
    monkeypatch.setenv("HF_TOKEN", "t")
    assert Hosts.from_environment() == Hosts("http://mirror", None, "t")


def test_a_file_that_moved_is_said_with_its_page(hub, tmp_path):
    with pytest.raises(FetchError, match="clip-vit-large-patch14 may have moved it"):
        fetch([find("clip")], tmp_path, hub)


def test_too_small_a_disk_is_said_before_the_first_byte(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "free_bytes", lambda folder: 1000)
    with pytest.raises(FetchError, match="1 kB free.*--folder|1e.03 B free.*--folder"):
        fetch([small("kl-f8", CONTENT)], tmp_path, hub)
    assert not hub.log


def test_a_file_put_there_by_hand_is_checked_and_kept(hub, tmp_path):
    weight = small("kl-f8", CONTENT)
    put(weight, tmp_path, CONTENT)
    said = fetch([weight], tmp_path, hub)
    assert "which lies there already" in said[0] and not hub.log
    assert plan([weight], tmp_path).found[0].state == "checked"


@pytest.mark.parametrize(
    ("content", "words"),
    [(CONTENT[:-5], "is truncated"), (CONTENT[:-1] + b"?", "is foreign")],
)
def test_a_spoiled_file_put_there_by_hand_is_named_and_left_alone(hub, tmp_path, content, words):
    weight = small("kl-f8", CONTENT)
    path = put(weight, tmp_path, content)
    with pytest.raises(FetchError, match=f"kl-f8.pth {words}.*remove it"):
        fetch([weight], tmp_path, hub)
    assert path.read_bytes() == content and not hub.log


def test_a_complete_folder_that_others_keep_is_only_read(hub, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "no")

    weight = small("kl-f8", CONTENT)
    put(weight, tmp_path, CONTENT)
    monkeypatch.setattr(Ledger, "add", refuse)
    monkeypatch.setattr(Ledger, "alone", refuse)
    fetch([weight], tmp_path, hub)
    assert "is not recorded" in examine(weight, tmp_path, Ledger(tmp_path)).note


def test_what_is_missing_is_listed_with_size_and_place(tmp_path):
    weights = plan([find("optimus"), find("clip")], tmp_path).missing
    lines = describe_missing(weights, tmp_path)
    assert "optimus (1.02 GB)" in lines[0] and "optimus-vae.pth" in lines[0]
    assert "clip (1.71 GB)" in lines[1]


def start(hub, folder):
    command = [sys.executable, "-m", "nbutils", "weights", "fetch", "vdvae", "--yes"]
    return subprocess.Popen(
        [*command, "--endpoint", hub.url, "--folder", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def test_ctrl_c_leaves_a_part_and_the_same_command_goes_on(hub, tmp_path):
    content = checkpoint(a=torch.arange(1_000_000.0))
    hub.put(find("vdvae"), content)
    hub.rate = 1_000_000
    process = start(hub, tmp_path)
    parts, until = [], time.monotonic() + 240  # a busy machine imports for a long time
    while not parts and process.poll() is None and time.monotonic() < until:
        parts = [p for p in tmp_path.glob(".imagenet64*.part") if p.stat().st_size > 200_000]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said.decode()
    assert "the same command continues" in said.decode() and "Traceback" not in said.decode()
    assert parts and not (tmp_path / find("vdvae").path).exists()
    hub.rate = None
    hub.log.clear()
    process = start(hub, tmp_path)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()
    assert hub.asked()[0] > 200_000
    assert (tmp_path / find("vdvae").path).read_bytes() == content
