"""What the Python clients share: checks, and a look at the relay's and the mock's counts."""

import atexit
import json
import os
import re
import time
import urllib.request

RELAY = os.environ["RELAY"]
MOCK = os.environ["MOCK"]
ADMIN = os.environ["ADMIN"]
# Header fields that have the mock fall silent for longer than the relay's heartbeat waits.
SILENCE = {"X-Mock-Stall": "5:1500"}
# A stream too long and slow to be over before its client leaves.
LONG = {"X-Mock-Tokens": "2000", "X-Mock-Rate": "20"}
FAILED = []


def check(name, condition, detail=""):
    """Shows one check."""
    if condition:
        print(f"ok {name}")
    else:
        FAILED.append(name)
        print(f"FAILED {name}: {str(detail)!r}")


@atexit.register
def _exit_code():
    if FAILED:
        os._exit(1)


def fetch(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def stats(name):
    """One of the mock's counts."""
    return json.loads(fetch(f"{MOCK}/stats"))[name]


def metric(name, label=""):
    """One of the relay's metrics, summed over its workers."""
    lines = fetch(f"{ADMIN}/metrics").splitlines()
    found = [line for line in lines if re.match(rf"millstream_{name}(?:_total)?\{{", line)]
    if not found:
        raise LookupError(f"no metric {name}")
    return sum(float(line.rpartition(" ")[2]) for line in found if label in line)


def eventually(name, condition):
    """Checks what comes true within ten seconds."""
    deadline = time.monotonic() + 10
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    check(name, true, "not within ten seconds")


def settle():
    """Waits until earlier streams are over on both sides, so that counts stand still."""
    deadline = time.monotonic() + 10
    while stats("active") or metric("streams_active"):
        if time.monotonic() > deadline:
            raise TimeoutError("an earlier stream is still there")
        time.sleep(0.02)


def counts():
    """Streams the mock saw left, and streams the relay says its client left."""
    return stats("aborted"), metric("streams", 'outcome="client_gone"')


def sees_leaving(name, leave):
    """Checks that `leave`, which opens a stream and leaves it, is noticed on both sides."""
    settle()
    aborted, gone = counts()
    leave()
    eventually(name, lambda: counts() == (aborted + 1, gone + 1))


def sees_heartbeat(name, ask):
    """Checks that `ask`, through a silence with a heartbeat in it, still gives the right text."""
    before = metric("heartbeats")
    right = ask()
    beats = metric("heartbeats") - before
    check(name, right and beats >= 1, f"text right: {right}, heartbeats: {beats}")
