// node worker.mjs: runs the jobs of the queue `mail`, four at a time.
import { Api, work } from "../../clients/js/dist/index.js";

const stop = new AbortController();
process.on("SIGTERM", () => stop.abort());
await work(new Api({ url: process.env.URL, token: process.env.KEY }), {
  queue: "mail",
  worker: process.argv[2] ?? "mailer-1",
  concurrency: 4,
  leaseS: Number(process.argv[3] ?? 60),
  signal: stop.signal,
  async handle(job, signal) {
    console.log("begin", job.id, job.attempt);
    await send(job.payload, { idempotencyKey: job.id, signal });
    return { sent: true };
  },
});

async function send({ to, taking_ms }, { idempotencyKey }) {
  await new Promise((resolve) => setTimeout(resolve, taking_ms));
  console.log("sent", idempotencyKey, to);
}
