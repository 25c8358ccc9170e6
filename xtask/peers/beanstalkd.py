"""beanstalkd, by its own text protocol. Each worker is a process that reserves a job, does it and deletes it.

What is durable: with `-b DIR -f0` the server syncs its log before it answers a put or a delete; without `-b` nothing is.
A job's result is its deletion; a lone task's result is a job in a second tube, which is one more put (and sync).
"""

import selectors
import socket
import time

from common import BODY_BYTES, CLIENTS, POLL_SECONDS, arguments, now, percentiles, rate, say, spawn_true

NOOP, SPAWN, ANSWERED = b"n", b"s", b"a"
# Puts that are on their way before the first answer is read.
PIPELINED = 200


class Connection:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.lines = self.socket.makefile("rb")

    def call(self, line):
        self.socket.sendall(line + b"\r\n")
        return self.lines.readline().split()

    def call_with_body(self, line):
        words = self.call(line)
        if words[0] not in (b"RESERVED", b"OK"):
            return words, None
        return words, self.lines.read(int(words[-1]) + 2)[:-2]

    def submit(self, kind, count):
        for start in range(0, count, PIPELINED):
            batch = min(PIPELINED, count - start)
            self.socket.sendall(put(kind) * batch)
            for _ in range(batch):
                expect(self.lines.readline())

    def wait_until_empty(self):
        while True:
            _, text = self.call_with_body(b"stats-tube tasks")
            if text is None:
                return
            figures = dict(line.split(b": ") for line in text.splitlines() if b": " in line)
            if int(figures[b"current-jobs-ready"]) + int(figures[b"current-jobs-reserved"]) == 0:
                return
            time.sleep(POLL_SECONDS)


def put(kind):
    body = kind.ljust(BODY_BYTES, b".")
    return b"put 0 0 600 %d\r\n%s\r\n" % (len(body), body)


def expect(answer):
    if not answer.startswith(b"INSERTED"):
        raise SystemExit(f"beanstalkd answered a put with {answer!r}")


def work(port):
    connection = Connection(port)
    connection.call(b"watch tasks")
    connection.call(b"ignore default")
    connection.call(b"use answers")
    while True:
        words, body = connection.call_with_body(b"reserve")
        if body[:1] == SPAWN:
            spawn_true()
        if body[:1] == ANSWERED:
            connection.socket.sendall(put(NOOP))
            expect(connection.lines.readline())
        connection.call(b"delete " + words[1])


def through(connection, kind, count):
    start = now()
    connection.submit(kind, count)
    connection.wait_until_empty()
    say(tasks_per_s=rate(count, now() - start))


def latency(connection, port, count):
    answers = Connection(port)
    answers.call(b"watch answers")
    answers.call(b"ignore default")
    took = []
    for _ in range(count):
        start = now()
        connection.submit(ANSWERED, 1)
        words, _ = answers.call_with_body(b"reserve")
        took.append(now() - start)
        answers.call(b"delete " + words[1])
    say(**percentiles(took))


def submit(port, count):
    """64 connections, each with one put under way, held by one loop: threads would measure Python's lock."""
    selector = selectors.DefaultSelector()
    message = put(NOOP)
    for _ in range(CLIENTS):
        connection = Connection(port)
        connection.call(b"use tasks")
        selector.register(connection.socket, selectors.EVENT_READ)
    began = {key.fileobj: now() for key in selector.get_map().values()}
    left, done, took = count - len(began), 0, []
    start = now()
    for sock in began:
        sock.sendall(message)
    while done < count:
        for key, _ in selector.select():
            # An answer is one short line, which loopback does not cut.
            expect(key.fileobj.recv(64))
            took.append(now() - began[key.fileobj])
            done += 1
            if left > 0:
                left -= 1
                began[key.fileobj] = now()
                key.fileobj.sendall(message)
    say(submits_per_s=rate(count, now() - start), clients=CLIENTS, **percentiles(took))


def main():
    given = arguments()
    if given.row == "work":
        return work(given.port)
    if given.row == "submit":
        return submit(given.port, max(given.count, CLIENTS))
    connection = Connection(given.port)
    connection.call(b"use tasks")
    if given.row == "fill":
        connection.submit(NOOP, given.count)
        return say(queued=given.count)
    # The first task waits for a worker that may still be starting.
    connection.submit(NOOP, 50)
    connection.wait_until_empty()
    if given.row == "latency":
        return latency(connection, given.port, given.count)
    return through(connection, SPAWN if given.row == "spawn" else NOOP, given.count)


main()
