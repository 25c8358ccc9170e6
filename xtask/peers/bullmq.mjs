// BullMQ on Redis: one worker process that runs two jobs at a time.
//
// What is durable: with `appendonly yes` and `appendfsync always` Redis syncs once per turn of its event loop, before it answers
// whoever wrote in that turn; without, nothing is. A task's result is its job among the completed ones, of which 1,000 are kept.

import { BULK, CLIENTS, PAYLOAD, given, latency, packages, say, sideBySide, sleep, spawnTrue, through } from './common.mjs';

const { Queue, QueueEvents, Worker } = packages('bullmq');
const { row, port, count } = given();
const connection = { host: '127.0.0.1', port, maxRetriesPerRequest: null };
const opts = { removeOnComplete: 1000, removeOnFail: 1000 };

async function work() {
  const task = async (job) => {
    if (job.name === 'spawn') await spawnTrue();
    return null;
  };
  new Worker('tasks', task, { connection, concurrency: 2 });
}

async function measure() {
  const queue = new Queue('tasks', { connection });
  const submit = (name) => async (all) => {
    for (let start = 0; start < all; start += BULK) {
      await queue.addBulk(Array.from({ length: Math.min(BULK, all - start) }, () => ({ name, data: PAYLOAD, opts })));
    }
  };
  const left = async () => {
    const counts = await queue.getJobCounts('wait', 'active', 'prioritized');
    return counts.wait + counts.active + counts.prioritized;
  };
  if (row === 'fill') {
    await submit('noop')(count);
    return say({ queued: await left() });
  }
  if (row === 'submit') {
    const queues = Array.from({ length: CLIENTS }, () => new Queue('tasks', { connection }));
    await Promise.all(queues.map((one) => one.waitUntilReady()));
    return sideBySide(count, queues.map((one) => () => one.add('noop', PAYLOAD, opts)));
  }
  // The first tasks wait for a worker that may still be starting.
  await submit('noop')(200);
  while ((await left()) > 0) await sleep(5);
  if (row === 'latency') {
    const events = new QueueEvents('tasks', { connection });
    await events.waitUntilReady();
    return latency(count, async () => (await queue.add('noop', PAYLOAD, opts)).waitUntilFinished(events));
  }
  return through(count, submit(row), left);
}

if (row === 'work') {
  await work();
} else {
  await measure();
  process.exit(0);
}
