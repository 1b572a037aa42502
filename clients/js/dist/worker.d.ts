import { type Api } from "./api.ts";
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
export declare function work<Payload = unknown>(api: Api, options: WorkOptions<Payload>): Promise<void>;
