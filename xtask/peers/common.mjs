// What the JavaScript clients of the peers share; common.py says what each row is. Packages are found below NODE_ROOT, because
// these files do not stand beside their node_modules.

import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';

export const packages = createRequire(`${process.env.NODE_ROOT}/package.json`);
export const CLIENTS = 64;
export const PAYLOAD = { payload: '.'.repeat(200) };
// Tasks of one bulk submit.
export const BULK = 1000;

export const now = () => Number(process.hrtime.bigint()) / 1e9;
export const sleep = (milliseconds) => new Promise((wake) => setTimeout(wake, milliseconds));
export const say = (figures) => console.log(JSON.stringify(figures));

export const spawnTrue = () =>
  new Promise((ended, failed) => spawn('/bin/true', { stdio: 'ignore' }).on('error', failed).on('close', ended));

// p50 and p99 in milliseconds by nearest rank, of times in seconds.
export function percentiles(seconds) {
  const ordered = [...seconds].sort((a, b) => a - b);
  const at = (percent) => ordered[Math.max(Math.ceil((ordered.length * percent) / 100), 1) - 1] * 1e3;
  return { p50_ms: at(50), p99_ms: at(99) };
}

// ROW --port PORT --count COUNT
export function given() {
  const [row, ...flags] = process.argv.slice(2);
  const value = (name) => Number(flags[flags.indexOf(name) + 1]);
  return { row, port: value('--port'), count: flags.includes('--count') ? value('--count') : 0 };
}

// Submits in bulk, waits until nothing is left, and says how many that were a second.
export async function through(count, submit, left) {
  const start = now();
  await submit(count);
  while ((await left()) > 0) await sleep(5);
  say({ tasks_per_s: count / (now() - start) });
}

// One after the other: `once` submits a task and returns when its result is here.
export async function latency(count, once) {
  const took = [];
  for (let task = 0; task < count; task += 1) {
    const start = now();
    await once();
    took.push(now() - start);
  }
  say(percentiles(took));
}

// As many clients as there are functions in `submits`, each of which submits one task at a time.
export async function sideBySide(count, submits) {
  const each = Math.max(Math.floor(count / submits.length), 1);
  const took = [];
  const one = async (submit) => {
    for (let task = 0; task < each; task += 1) {
      const start = now();
      await submit();
      took.push(now() - start);
    }
  };
  const start = now();
  await Promise.all(submits.map(one));
  say({ submits_per_s: (each * submits.length) / (now() - start), clients: submits.length, ...percentiles(took) });
}
