"""Waiting for an asynchronous request: one thread for all, and none is left under way."""

import asyncio
import json
import subprocess
import sys
import threading

import pytest

from nbutils.transfer.progress import Meter, Stopped
from nbutils.transfer.waiting import await_answer

MANY = """
import json, sys, threading

from nbutils.transfer.progress import Meter
from nbutils.transfer.waiting import await_answer

sys.setswitchinterval(1e-6)
together, found = threading.Barrier(8), []


async def answer():
    found.append(threading.get_ident())


def work():
    together.wait()
    await_answer(answer, meter)


with Meter(False) as meter:
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
names = [one.name for one in threading.enumerate()]
print(json.dumps({"found": found, "names": names}))
"""


def test_threads_that_start_at_once_share_one_waiting_thread():
    done = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert len(seen["found"]) == 8 and len(set(seen["found"])) == 1
    assert seen["names"].count("nbutils-transfer") == 1


class Interrupted(Meter):
    """Told to stop while the request waits for its turn, which comes a little later."""

    def __init__(self, turn):
        super().__init__(False)
        self.turn, self.looks = turn, 0

    def check(self):
        self.looks += 1
        if self.looks > 1:
            threading.Timer(0.2, self.turn.set).start()
            raise Stopped


def test_a_request_that_was_given_up_before_its_turn_is_waited_for():
    steps, turn = [], threading.Event()

    async def answer():
        steps.append("sent")
        try:
            await asyncio.sleep(600)
        finally:
            steps.append("given up")

    async def find_loop():
        return asyncio.get_running_loop()

    with Meter(False) as meter:
        await_answer(find_loop, meter).call_soon_threadsafe(turn.wait, 60)
    with Interrupted(turn) as meter, pytest.raises(Stopped):
        await_answer(answer, meter)
    assert steps == ["sent", "given up"]
