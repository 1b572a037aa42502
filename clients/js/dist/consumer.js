// A consumer of an event stream that is right when it crashes: see docs/streams.md.
import { Backoff, mayPass, Problem } from "./api.js";
/**
 * Handle events one after the other, until `signal` says stop. Each is acknowledged with the next
 * read, after `handle`: at least once, whatever crashes.
 *
 * @throws Problem for a refusal that trying again does not mend.
 */
export async function consume(api, options) {
    const { stream, group, consumer, handle, signal, onError } = options;
    const path = `/v1/streams/${encodeURIComponent(stream)}/groups/${encodeURIComponent(group)}`;
    const backoff = new Backoff(api.backoff);
    let done = [];
    while (!signal?.aborted) {
        let events;
        try {
            const body = {
                consumer,
                count: options.count ?? 50,
                block_ms: options.blockMs ?? 20_000,
                ack: done,
            };
            const ask = { body, signal, retry: false };
            events = (await api.json("POST", `${path}/read`, ask)).events;
            backoff.reset();
        }
        catch (error) {
            if (signal?.aborted)
                break;
            if (error instanceof Problem && error.status === 404) {
                await api.request("PUT", path, { body: { start: options.start ?? "0" }, signal });
            }
            else if (mayPass(error)) {
                onError?.(error);
                await backoff.pause(error, signal);
            }
            else {
                throw error;
            }
            continue;
        }
        done = [];
        for (const event of events) {
            // What is left over comes again when its time is up.
            if (signal?.aborted)
                break;
            try {
                await handle(event);
                done.push(event.token);
            }
            catch (error) {
                onError?.(error, event);
                await giveBack(api, path, event.token, error, options.retryMs ?? 1000);
            }
        }
    }
    if (done.length > 0)
        await api.request("POST", `${path}/ack`, { body: { tokens: done } });
}
async function giveBack(api, path, token, error, delay_ms) {
    const reason = `${error}`.slice(0, 500) || "unknown";
    try {
        await api.request("POST", `${path}/nack`, { body: { tokens: [token], delay_ms, reason } });
    }
    catch {
        // It comes again by itself when the time of its delivery is up.
    }
}
