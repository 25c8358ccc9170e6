"""NATS JetStream: a work-queue stream in files, pull consumers that fetch 50 messages at a time. Each worker is a process.

What is durable: a published message is in the page cache when it is acknowledged; the server of Debian syncs every two
minutes, so a killed server loses nothing and a power cut may. A task's result is its acknowledgement by the worker; a lone
task's result is a plain message to the client.
"""

import asyncio

import nats
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from common import BODY_BYTES, CLIENTS, POLL_SECONDS, arguments, now, percentiles, rate, say, spawn_true

NOOP, SPAWN, ANSWERED = b"n", b"s", b"a"
FETCHED = 50
# Publications under way at once of the rows that submit many.
IN_FLIGHT = 256


def body(kind):
    return kind.ljust(BODY_BYTES, b".")


async def connect(port):
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    stream = client.jetstream()
    await stream.add_stream(
        StreamConfig(name="TASKS", subjects=["tasks"], retention=RetentionPolicy.WORK_QUEUE, storage=StorageType.FILE)
    )
    config = ConsumerConfig(durable_name="workers", ack_policy=AckPolicy.EXPLICIT, max_ack_pending=100_000)
    await stream.add_consumer("TASKS", config)
    return client, stream


async def work(port):
    client, stream = await connect(port)
    tasks = await stream.pull_subscribe("tasks", durable="workers", stream="TASKS")
    while True:
        try:
            messages = await tasks.fetch(FETCHED, timeout=5)
        except asyncio.TimeoutError:
            continue
        for message in messages:
            if message.data[:1] == SPAWN:
                spawn_true()
            if message.data[:1] == ANSWERED:
                await client.publish("answers", message.data)
            await message.ack()
        await client.flush()


async def publish(stream, kind, count):
    for start in range(0, count, IN_FLIGHT):
        batch = min(IN_FLIGHT, count - start)
        await asyncio.gather(*(stream.publish("tasks", body(kind)) for _ in range(batch)))


async def wait_until_empty(stream):
    while (await stream.stream_info("TASKS")).state.messages:
        await asyncio.sleep(POLL_SECONDS)


async def latency(client, stream, count):
    answers = await client.subscribe("answers")
    await client.flush()
    took = []
    for _ in range(count):
        start = now()
        await stream.publish("tasks", body(ANSWERED))
        await answers.next_msg(timeout=20)
        took.append(now() - start)
    say(**percentiles(took))


async def submit(port, count):
    streams = [(await connect(port))[1] for _ in range(CLIENTS)]
    each, took = max(count // CLIENTS, 1), []

    async def one(stream):
        for _ in range(each):
            start = now()
            await stream.publish("tasks", body(NOOP))
            took.append(now() - start)

    start = now()
    await asyncio.gather(*(one(stream) for stream in streams))
    say(submits_per_s=rate(each * CLIENTS, now() - start), clients=CLIENTS, **percentiles(took))


async def main():
    given = arguments()
    if given.row == "work":
        return await work(given.port)
    if given.row == "submit":
        return await submit(given.port, given.count)
    client, stream = await connect(given.port)
    if given.row == "fill":
        await publish(stream, NOOP, given.count)
        return say(queued=(await stream.stream_info("TASKS")).state.messages)
    # The first tasks wait for workers that may still be starting.
    await publish(stream, NOOP, 200)
    await wait_until_empty(stream)
    if given.row == "latency":
        return await latency(client, stream, given.count)
    start = now()
    await publish(stream, SPAWN if given.row == "spawn" else NOOP, given.count)
    await wait_until_empty(stream)
    say(tasks_per_s=rate(given.count, now() - start))


asyncio.run(main())
