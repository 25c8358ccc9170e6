"""Celery with Redis as broker and as store of results, tasks acknowledged after they ran. The worker is Celery's own, with two
processes; run as `python -m celery -A celery_redis worker` it takes this file as its application, and CELERY_PORT says where.

What is durable: Redis runs with `appendonly yes` and `appendfsync always`, so a command is on disk before its answer. A
task's result is its entry among the results.
"""

import os
import time

import redis
from celery import Celery

from common import BODY_BYTES, arguments, now, percentiles, rate, say, spawn_true

BROKER, RESULTS = 0, 1
ADDRESS = f"redis://127.0.0.1:{os.environ['CELERY_PORT']}"
PAYLOAD = "." * BODY_BYTES

app = Celery("peers", broker=f"{ADDRESS}/{BROKER}", backend=f"{ADDRESS}/{RESULTS}")
app.conf.update(
    task_acks_late=True, task_ignore_result=False, result_expires=None, broker_connection_retry_on_startup=True
)


@app.task(name="noop")
def noop(payload):
    return None


@app.task(name="spawn")
def spawn(payload):
    spawn_true()


def send(task, count):
    """One by one on one connection: Celery has no way to send many at once."""
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(count):
            task.apply_async((PAYLOAD,), producer=producer)


def through(task, count):
    results = redis.Redis(port=int(os.environ["CELERY_PORT"]), db=RESULTS)
    noop.delay(PAYLOAD).get(timeout=60)
    results.flushdb()
    start = now()
    send(task, count)
    while results.dbsize() < count:
        time.sleep(0.01)
    say(tasks_per_s=rate(count, now() - start))


def latency(count):
    noop.delay(PAYLOAD).get(timeout=60)
    took = []
    for _ in range(count):
        start = now()
        noop.delay(PAYLOAD).get(timeout=20)
        took.append(now() - start)
    say(**percentiles(took))


def main():
    given = arguments()
    if given.row == "noop":
        through(noop, given.count)
    elif given.row == "spawn":
        through(spawn, given.count)
    elif given.row == "latency":
        latency(given.count)
    elif given.row == "fill":
        send(noop, given.count)
        say(queued=given.count)
    else:
        raise SystemExit(f"the row {given.row} is not measured of Celery")


if __name__ == "__main__":
    main()
