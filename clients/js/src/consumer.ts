// A consumer of an event stream that is right when it crashes: see docs/streams.md.

import { type Api, Backoff, mayPass, Problem } from "./api.ts";

/** An event as a consumer group delivers it. */
export interface StreamEvent<Data = unknown> {
  /** Stays the same in each delivery: make `handle` safe to repeat by it. */
  id: string;
  type: string | null;
  data: Data;
  /** For the how-manyeth time. */
  delivery: number;
  /** Of this delivery alone. */
  token: string;
}

export interface ConsumeOptions<Data> {
  stream: string;
  group: string;
  /** Who this is, unique in the group. */
  consumer: string;
  /** What is thrown gives the event back; after the group's `max_deliveries` it is a dead letter. */
  handle: (event: StreamEvent<Data>) => Promise<void> | void;
  /** Finish the event at hand, acknowledge, and return. */
  signal?: AbortSignal;
  /** How many events are asked for at once; 50. */
  count?: number;
  /** How long the server waits for the first; 20 000. */
  blockMs?: number;
  /** How long an event that was given back rests; 1000. */
  retryMs?: number;
  /** Where a group that does not exist begins: `0`, `$` (from now on) or an id; `0`. */
  start?: string;
  onError?: (error: unknown, event?: StreamEvent<Data>) => void;
}

/**
 * Handle events one after the other, until `signal` says stop. Each is acknowledged with the next
 * read, after `handle`: at least once, whatever crashes.
 *
 * @throws Problem for a refusal that trying again does not mend.
 */
export async function consume<Data = unknown>(
  api: Api,
  options: ConsumeOptions<Data>,
): Promise<void> {
  const { stream, group, consumer, handle, signal, onError } = options;
  const path =
    `/v1/streams/${encodeURIComponent(stream)}/groups/${encodeURIComponent(group)}`;
  const backoff = new Backoff(api.backoff);
  let done: string[] = [];
  while (!signal?.aborted) {
    let events: StreamEvent<Data>[];
    try {
      const body = {
        consumer,
        count: options.count ?? 50,
        block_ms: options.blockMs ?? 20_000,
        ack: done,
      };
      const ask = { body, signal, retry: false };
      events = (await api.json<{ events: StreamEvent<Data>[] }>("POST", `${path}/read`, ask)).events;
      backoff.reset();
    } catch (error) {
      if (signal?.aborted) break;
      if (error instanceof Problem && error.status === 404) {
        await api.request("PUT", path, { body: { start: options.start ?? "0" }, signal });
      } else if (mayPass(error)) {
        onError?.(error);
        await backoff.pause(error, signal);
      } else {
        throw error;
      }
      continue;
    }
    done = [];
    for (const event of events) {
      // What is left over comes again when its time is up.
      if (signal?.aborted) break;
      try {
        await handle(event);
        done.push(event.token);
      } catch (error) {
        onError?.(error, event);
        await giveBack(api, path, event.token, error, options.retryMs ?? 1000);
      }
    }
  }
  if (done.length > 0) await api.request("POST", `${path}/ack`, { body: { tokens: done } });
}

async function giveBack(
  api: Api,
  path: string,
  token: string,
  error: unknown,
  delay_ms: number,
): Promise<void> {
  const reason = `${error}`.slice(0, 500) || "unknown";
  try {
    await api.request("POST", `${path}/nack`, { body: { tokens: [token], delay_ms, reason } });
  } catch {
    // It comes again by itself when the time of its delivery is up.
  }
}
