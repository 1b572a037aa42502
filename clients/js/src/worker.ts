// A worker for a job queue: claims, heartbeats, and a word at the end. See docs/jobs.md.

import { type Api, Backoff, mayPass, Problem } from "./api.ts";

/** A job as a claim gives it. */
export interface Job<Payload = unknown> {
  id: string;
  payload: Payload;
  /** From 1. */
  attempt: number;
  /** Of this delivery alone. */
  token: string;
  lease_expires_at: string;
}

export interface WorkOptions<Payload> {
  queue: string;
  /** Who this is; told with the job. */
  worker: string;
  /**
   * What it returns is the job's `result`; what it throws fails the attempt, and `retryInS` of what
   * it throws says when to try again. `signal` is aborted when the job is somebody else's by now.
   */
  handle: (job: Job<Payload>, signal: AbortSignal) => Promise<unknown> | unknown;
  /** Take no more, finish what is at hand, and return: after `waitMs` at the latest. */
  signal?: AbortSignal;
  /** How many run at a time; 1. */
  concurrency?: number;
  /** A job whose worker is silent for so long goes to another; 60. A third of it is a heartbeat. */
  leaseS?: number;
  /** How long the server waits for the first job; 20 000. */
  waitMs?: number;
  onError?: (error: unknown, job?: Job<Payload>) => void;
}

/**
 * Work until `signal` says stop. A job is completed once, and its effect may happen more than once:
 * its id is a good Idempotency-Key.
 *
 * @throws Problem for a refusal that trying again does not mend.
 */
export async function work<Payload = unknown>(
  api: Api,
  options: WorkOptions<Payload>,
): Promise<void> {
  const { queue, worker, signal, onError } = options;
  const path = `/v1/queues/${encodeURIComponent(queue)}/claim`;
  const lease_s = options.leaseS ?? 60;
  const wait_ms = options.waitMs ?? 20_000;
  const backoff = new Backoff(api.backoff);
  const running = new Set<Promise<void>>();
  try {
    while (!signal?.aborted) {
      const limit = (options.concurrency ?? 1) - running.size;
      if (limit <= 0) {
        await Promise.race(running);
        continue;
      }
      let jobs: Job<Payload>[];
      try {
        const body = { worker, limit, lease_s, wait_ms };
        // Not aborted: a claim whose answer nobody reads would hold its jobs until the lease ends.
        const ask = { body, retry: false };
        jobs = (await api.json<{ jobs: Job<Payload>[] }>("POST", path, ask)).jobs;
        backoff.reset();
      } catch (error) {
        if (!mayPass(error)) throw error;
        onError?.(error);
        await backoff.pause(error, signal);
        continue;
      }
      for (const job of jobs) {
        const one = run(api, job, options, lease_s).finally(() => running.delete(one));
        running.add(one);
      }
    }
  } finally {
    await Promise.all(running);
  }
}

async function run<Payload>(
  api: Api,
  job: Job<Payload>,
  options: WorkOptions<Payload>,
  lease_s: number,
): Promise<void> {
  const path = `/v1/jobs/${encodeURIComponent(job.id)}`;
  const { token } = job;
  const lost = new AbortController();
  const beat = setInterval(() => {
    const ask = { body: { token, lease_s }, signal: lost.signal };
    api.request("POST", `${path}/extend`, ask).catch((error) => {
      // Only the server knows that the job is gone; a network that failed may be back in time.
      if (error instanceof Problem && !mayPass(error)) lost.abort(error);
    });
  }, (lease_s * 1000) / 3);
  try {
    const [word, body] = await attempt(job, options, lost.signal);
    clearInterval(beat);
    if (!lost.signal.aborted) {
      await api.request("POST", `${path}/${word}`, { body: { token, ...body } });
    }
  } catch (error) {
    // With `lease_lost` and with a silent server whoever has the job next does it again. Where the
    // answer to the first `complete` was lost, the second says that it is completed.
    const isDone = error instanceof Problem && error.members["state"] === "completed";
    if (!isDone) options.onError?.(error, job);
  } finally {
    clearInterval(beat);
  }
}

async function attempt<Payload>(
  job: Job<Payload>,
  options: WorkOptions<Payload>,
  signal: AbortSignal,
): Promise<["complete" | "fail", object]> {
  try {
    const result = await options.handle(job, signal);
    return ["complete", result === undefined ? {} : { result }];
  } catch (error) {
    options.onError?.(error, job);
    const retry_in_s = (error as { retryInS?: unknown } | null)?.retryInS;
    const text = error instanceof Error ? (error.stack ?? error.message) : `${error}`;
    return ["fail", { error: text, ...(typeof retry_in_s === "number" ? { retry_in_s } : {}) }];
  }
}
