"""A fetch that is killed, or stopped by Ctrl-C, goes on where it ended."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nbutils.nsd.layout import Layout


def command(site, root, *more):
    return [
        *(sys.executable, "-m", "nbutils", "nsd", "fetch", "--subject", "1"),
        *("--sessions", "1-2", "--data", str(root), "--endpoint", site.url, "--coco", site.coco),
        *("--accept-terms", "--workers", "1", *more),
    ]


def listen_to_ctrl_c():
    """Undo what a job in the background inherits from its shell: to ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(site, root, *more):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        command(site, root, *more), env=dict(os.environ), preexec_fn=listen_to_ctrl_c, **quiet
    )


def wait_until(condition, process, seconds=60):
    for _ in range(seconds * 50):
        if condition():
            return
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.02)
    raise AssertionError("it never came so far")


@pytest.mark.parametrize("keep_raw", [False, True])
def test_a_killed_fetch_goes_on_and_ends_the_same(
    site, tmp_path, fault, undisturbed, contents, keep_raw
):
    layout, second = Layout(tmp_path / "nsd"), site.betas(2)
    more = ["--images", "none" if keep_raw else "stimuli"] + ["--keep-raw"] * keep_raw
    site.objects.always[second] = fault(rate=400_000)
    process = start(site, layout.root, *more)

    def parts():
        return [p for p in layout.root.rglob("*session02*.part") if p.stat().st_size > 10**5]

    wait_until(
        lambda: (
            layout.betas(1, 1, "masked").is_file()
            and site.objects.asked(second)
            and (parts() or not keep_raw)
            and (keep_raw or list(layout.root.rglob("nsd_id*.png")))
        ),
        process,
    )
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not layout.betas(1, 2, "masked").exists() and not layout.betas(1, 2).exists()
    del site.objects.always[second]
    site.objects.log.clear()
    done = subprocess.run(command(site, layout.root, *more), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not site.objects.asked(site.betas(1), "GET")
    [request] = site.objects.asked(second, "GET")
    assert int(request[2].removeprefix("bytes=").split("-")[0]) > (10**5 if keep_raw else -1)
    after, expected = contents(layout.root), contents(undisturbed.root)
    if keep_raw:
        names = [name for name in after if "/masked/" in name and name.endswith(".npy")]
        assert len(names) == 3 and all(after[name] == expected[name] for name in names)
        assert after[layout.key(layout.betas(1, 2))] == site.objects.content[second]
    else:
        assert after == expected
    assert not [p for p in layout.root.rglob("*.part") if "/.nsd_id" not in str(p)]


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(site, tmp_path, fault):
    site.objects.always[site.betas(1)] = fault(rate=200_000)
    process = start(site, tmp_path / "nsd", "--images", "none")
    wait_until(lambda: site.objects.asked(site.betas(1), "GET"), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in said.decode() and "Traceback" not in said.decode()
    assert not Layout(tmp_path / "nsd").betas(1, 1, "masked").exists()


@pytest.mark.parametrize("where", ["a listing", "a stream of betas", "a file", "an HDF5 file"])
def test_ctrl_c_does_not_wait_for_a_silent_server(site, tmp_path, fault, where):
    """The server speaks again only after the process has ended."""
    layout, speak, key = Layout(tmp_path / "nsd"), threading.Event(), site.betas(1)
    more = ["--images", "none"] + ["--keep-raw"] * (where == "a file")
    if where == "an HDF5 file":
        key, more = site.key(site.world.stimuli()), ["--images", "stimuli"]
    if where == "a listing":
        site.objects.lists, key = speak, ""
    else:
        site.objects.fail(key, fault(cut=200_000, silent=speak))
    process = start(site, layout.root, *more)
    wait_until(lambda: site.objects.asked(key, None if where == "a listing" else "GET"), process)
    if where == "a file":
        wait_until(
            lambda: [p for p in layout.root.rglob("*session01*.part") if p.stat().st_size], process
        )
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)  # half the silence that is borne
    assert process.returncode == 130 and "Traceback" not in said.decode()
    assert not speak.is_set()
    speak.set()
    if where == "a file":
        [part] = layout.root.rglob("*session01*.part")
        done = part.stat().st_size
        assert 0 < done <= 200_000
        site.objects.log.clear()
        again = subprocess.run(command(site, layout.root, *more), capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        [request] = site.objects.asked(key, "GET")
        assert int(request[2].removeprefix("bytes=").split("-")[0]) == done
        assert layout.betas(1, 1).read_bytes() == site.objects.content[key]
