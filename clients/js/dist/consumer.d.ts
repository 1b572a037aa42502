import { type Api } from "./api.ts";
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
export declare function consume<Data = unknown>(api: Api, options: ConsumeOptions<Data>): Promise<void>;
