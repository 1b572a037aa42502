/** A key or token, or what fetches one; it is told when the last one was refused. */
export type TokenSource = string | ((wasRefused: boolean) => string | Promise<string>);
export interface ApiOptions {
    /** Where the server is: `https://api.example.com`. */
    url: string;
    token: TokenSource;
    /** How often a request is tried in all; 5. Following a document goes on for ever. */
    attempts?: number;
    backoff?: BackoffOptions;
    fetch?: typeof globalThis.fetch;
    WebSocket?: typeof globalThis.WebSocket;
}
export interface BackoffOptions {
    /** The longest first pause; 250. */
    firstMs?: number;
    /** The longest pause of all; 30 000. */
    longestMs?: number;
    random?: () => number;
}
/** A refusal by the server: its problem (RFC 9457). */
export declare class Problem extends Error {
    name: string;
    readonly status: number;
    /** What to program against: `cursor_compacted`, `lease_lost`. */
    readonly code: string;
    /** Further members: `cursor`, `epoch`, `state`. */
    readonly members: Record<string, unknown>;
    readonly retryAfterMs: number | undefined;
    constructor(status: number, code: string, detail: string, members?: Record<string, unknown>, retryAfterMs?: number);
}
/** The connection failed, or an answer broke off: whether the request was carried out is unknown. */
export declare class Disconnected extends Error {
    name: string;
}
/** Whether the same request may succeed later. */
export declare function mayPass(error: unknown): boolean;
/**
 * Pauses between attempts: uniformly from nothing to a bound that doubles, so that a thousand
 * clients of a server that restarts do not come back at once ("full jitter").
 */
export declare class Backoff {
    #private;
    constructor(options?: BackoffOptions);
    /** Begin with short pauses again. */
    reset(): void;
    /** End a pause that is under way: the network is back. */
    wake(): void;
    /** Pause before the next attempt, at least as long as the server asked for. */
    pause(error: unknown, signal?: AbortSignal): Promise<void>;
}
export interface Ask {
    body?: Uint8Array | object;
    headers?: Record<string, string>;
    signal?: AbortSignal | undefined;
    /** False for what must not be said twice. */
    retry?: boolean;
    /** Statuses that are answers although they are not 2xx. */
    expect?: number[];
}
/** A server, and who asks. */
export declare class Api {
    #private;
    readonly url: string;
    readonly backoff: BackoffOptions;
    readonly WebSocket: typeof globalThis.WebSocket | undefined;
    constructor(options: ApiOptions);
    /** The credential to send; a fresh one where the last was refused. */
    token(wasRefused?: boolean): Promise<string>;
    /** Whether there may be another credential than the one that was refused. */
    get canRenew(): boolean;
    /**
     * One request, tried again while that may help. What is sent here may be sent twice: the relay
     * knows the bytes again, jobs their token.
     *
     * @throws Problem for a refusal, Disconnected where no answer came, AbortError.
     */
    request(method: string, path: string, ask?: Ask): Promise<Response>;
    /** The same, and its JSON. */
    json<T>(method: string, path: string, ask?: Ask): Promise<T>;
}
/** Wait for something of the network's; a failure of it is Disconnected. */
export declare function reading<T>(read: () => Promise<T>): Promise<T>;
