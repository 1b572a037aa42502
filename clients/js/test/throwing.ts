// Handlers that throw: what the server hears of it.

import assert from "node:assert/strict";

import { consume, type Job, work } from "../src/index.ts";
import { api } from "./server.ts";

const server = api();
const events = "/v1/streams/bad/events";
await server.request("POST", events, { body: [{ data: 1 }, { data: 2 }] });
await server.request("PUT", "/v1/streams/bad/groups/g", { body: { max_deliveries: 2 } });
let stop = new AbortController();
const seen: string[] = [];
await consume<number>(server, {
  stream: "bad",
  group: "g",
  consumer: "c",
  blockMs: 200,
  retryMs: 0,
  signal: stop.signal,
  handle(event) {
    seen.push(`${event.data}/${event.delivery}`);
    if (event.data === 1) {
      if (event.delivery === 2) stop.abort();
      throw new Error("no one is data 1");
    }
  },
});
assert.deepEqual(seen.sort(), ["1/1", "1/2", "2/1"]);
const dead = await server.json<{ data: { reason: string }[] }>(
  "GET",
  "/v1/streams/bad/groups/g/dead",
);
assert.match(JSON.stringify(dead.data), /no one is data 1/);

// A group that does not exist is made, where the consumer says.
stop = new AbortController();
await consume<number>(server, {
  stream: "bad",
  group: "new",
  consumer: "c",
  blockMs: 200,
  signal: stop.signal,
  handle: (event) => {
    if (event.data === 2) stop.abort();
  },
});

const jobs = "/v1/queues/bad/jobs";
const { id } = await server.json<{ id: string }>("POST", jobs, { body: { payload: 7 } });
stop = new AbortController();
const attempts: number[] = [];
await work<number>(server, {
  queue: "bad",
  worker: "w",
  waitMs: 500,
  signal: stop.signal,
  handle(job: Job<number>) {
    attempts.push(job.attempt);
    if (job.attempt === 1) throw Object.assign(new Error("not yet"), { retryInS: 0 });
    stop.abort();
    return { seven: job.payload };
  },
});
const job = await server.json<Record<string, unknown>>("GET", `/v1/jobs/${id}`);
assert.deepEqual([attempts, job["state"], job["result"]], [[1, 2], "completed", { seven: 7 }]);
assert.match(JSON.stringify(job["errors"]), /not yet/);

// Cancelled while it runs: the handler hears of it at the next heartbeat.
const other = await server.json<{ id: string }>("POST", jobs, { body: { payload: 8 } });
stop = new AbortController();
let heard = false;
await work<number>(server, {
  queue: "bad",
  worker: "w",
  leaseS: 1,
  waitMs: 500,
  signal: stop.signal,
  async handle(job, signal) {
    await server.request("POST", `/v1/jobs/${job.id}/cancel`);
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    heard = true;
    stop.abort();
  },
});
const cancelled = await server.json<{ state: string }>("GET", `/v1/jobs/${other.id}`);
assert.deepEqual([heard, cancelled.state], [true, "cancelled"]);

// A stream or queue that this key may not touch is an error.
const stranger = api({ token: "mk_live_nobody_nothing" });
await assert.rejects(
  consume(stranger, { stream: "bad", group: "g", consumer: "c", handle() {} }),
  { status: 401 },
);
await assert.rejects(work(stranger, { queue: "bad", worker: "w", handle() {} }), { status: 401 });
