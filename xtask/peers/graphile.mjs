// graphile-worker on PostgreSQL: one worker process that runs two jobs at a time.
//
// What is durable: `synchronous_commit` is on, so a submit is synced before it is acknowledged, and so is a completion. With
// GRAPHILE_TUNED a worker takes 500 jobs at a time and completes them in batches, which are its documented settings for
// throughput: a killed worker runs up to 500 jobs again, later than one of the other kind would. A task's result is its row's
// deletion; a lone task's result is a notification.

import { BULK, CLIENTS, PAYLOAD, given, latency, packages, say, sideBySide, sleep, spawnTrue, through } from './common.mjs';

const { Logger, makeWorkerUtils, run } = packages('graphile-worker');
const { Client, Pool } = packages('pg');
const { row, port, count } = given();
const connectionString = `postgresql://postgres@127.0.0.1:${port}/postgres`;
const logger = new Logger(() => () => {});

async function work() {
  const tuned = {
    localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  };
  const worker = { connectionString, concurrentJobs: 2, maxPoolSize: 10, ...(process.env.GRAPHILE_TUNED ? tuned : {}) };
  await run({
    logger,
    preset: { worker },
    taskList: {
      noop: async () => {},
      spawn: spawnTrue,
      answered: async (payload, helpers) => {
        await helpers.query("select pg_notify('answers', '')");
      },
    },
  });
}

async function measure() {
  const pool = new Pool({ connectionString, max: CLIENTS });
  const utils = await makeWorkerUtils({ connectionString, logger });
  await utils.migrate();
  const submit = (identifier) => async (all) => {
    for (let start = 0; start < all; start += BULK) {
      await utils.addJobs(Array.from({ length: Math.min(BULK, all - start) }, () => ({ identifier, payload: PAYLOAD })));
    }
  };
  const left = async () => Number((await pool.query('select count(*) from graphile_worker._private_jobs')).rows[0].count);
  if (row === 'fill') {
    await submit('noop')(count);
    return say({ queued: await left() });
  }
  if (row === 'submit') {
    const clients = await Promise.all(Array.from({ length: CLIENTS }, () => pool.connect()));
    const add = 'select graphile_worker.add_job($1, $2)';
    return sideBySide(count, clients.map((one) => () => one.query(add, ['noop', PAYLOAD])));
  }
  // The first tasks wait for a worker that may still be starting.
  await submit('noop')(200);
  while ((await left()) > 0) await sleep(5);
  if (row === 'latency') {
    const listener = new Client({ connectionString });
    await listener.connect();
    await listener.query('listen answers');
    let arrived;
    listener.on('notification', () => arrived());
    return latency(count, async () => {
      const answer = new Promise((wake) => (arrived = wake));
      await utils.addJob('answered', PAYLOAD);
      await answer;
    });
  }
  return through(count, submit(row), left);
}

if (row === 'work') {
  await work();
} else {
  await measure();
  process.exit(0);
}
