"""HyperQueue by its command line: HQ_BIN names the program, HQ_DIR the server's directory. A task is a process, always.

What is durable: with `--journal` a submit is synced before it is acknowledged; results are written every 30 seconds, so a
killed server runs most of what had finished again. Tasks leave no output files. A lone task is submitted by a new process
each time, whose own start is part of the time; the server schedules at most every 20 ms, so there is a pause before each.
"""

import json
import os
import subprocess
import tempfile
import time

from common import BODY_BYTES, arguments, now, percentiles, rate, say

SUBMIT = ["submit", "--stdout", "none", "--stderr", "none"]
# Longer than the server's interval.
PAUSE_SECONDS = 0.15
# A waiting client was seen not to return though its job had finished; it is counted and left out.
WAIT_SECONDS = 5


def hq(*words, timeout=None):
    command = [os.environ["HQ_BIN"], "--server-dir", os.environ["HQ_DIR"], "--colors", "never", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout).stdout


def wait_for_workers(count):
    while len(json.loads(hq("--output-mode", "json", "worker", "list"))) < count:
        time.sleep(0.05)


def spawn(count):
    start = now()
    hq(*SUBMIT, "--wait", "--array", f"1-{count}", "true")
    say(tasks_per_s=rate(count, now() - start))


def latency(count):
    took, lost = [], 0
    for _ in range(count):
        time.sleep(PAUSE_SECONDS)
        start = now()
        try:
            hq(*SUBMIT, "--wait", "true", timeout=WAIT_SECONDS)
            took.append(now() - start)
        except subprocess.TimeoutExpired:
            lost += 1
    say(never_returned=lost, **percentiles(took))


def fill(count):
    """Distinct tasks, each with an entry of its own, as the others' have a body."""
    with tempfile.NamedTemporaryFile("w") as lines:
        lines.writelines(f"{number:09}".ljust(BODY_BYTES - 1, ".") + "\n" for number in range(count))
        lines.flush()
        hq(*SUBMIT, "--each-line", lines.name, "true")
    say(queued=count)


def main():
    given = arguments()
    if given.row == "fill":
        return fill(given.count)
    wait_for_workers(2)
    if given.row == "spawn":
        return spawn(given.count)
    if given.row == "latency":
        return latency(given.count)
    raise SystemExit(f"the row {given.row} is not measured of HyperQueue")


main()
