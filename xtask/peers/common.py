"""What the Python clients of the peers share: arguments, clocks, percentiles, and the one line of JSON that each row prints.

Every client is run as `CLIENT ROW --port PORT --count COUNT` against a server that is already there, and as `CLIENT work
--port PORT` to be one of its workers. It starts no server and ends none.

  noop     COUNT tasks that do nothing, from before the first submit until none is left
  spawn    the same with one `true` started and waited for by each task
  latency  COUNT tasks one after the other on an idle system, from before the submit until the result is at the client
  submit   COUNT tasks, each submitted alone, by 64 clients at once that each wait for their acknowledgement
  fill     COUNT tasks left in the queue, for whoever measures the server's memory
"""

import argparse
import json
import subprocess
import time

# What a task carries besides its kind: about an assignment's worth.
BODY_BYTES = 200
CLIENTS = 64
# How often a drained queue is looked for: rare enough not to be what is measured, and the error of the time.
POLL_SECONDS = 0.005
now = time.perf_counter


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("row", choices=["noop", "spawn", "latency", "submit", "fill", "work"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--count", type=int, default=0)
    return parser.parse_args()


def spawn_true():
    subprocess.run(["/bin/true"], check=True)


def say(**figures):
    print(json.dumps(figures), flush=True)


def rate(count, seconds):
    return count / max(seconds, 1e-9)


def percentiles(seconds):
    """p50 and p99 in milliseconds by nearest rank, of times in seconds."""
    ordered = sorted(seconds)
    rank = lambda percent: max(-(-len(ordered) * percent // 100), 1) - 1
    return {"p50_ms": ordered[rank(50)] * 1e3, "p99_ms": ordered[rank(99)] * 1e3}
