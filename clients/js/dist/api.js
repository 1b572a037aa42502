// Requests to a server: the credential, problems as errors, and trying again.
/** A refusal by the server: its problem (RFC 9457). */
export class Problem extends Error {
    name = "Problem";
    status;
    /** What to program against: `cursor_compacted`, `lease_lost`. */
    code;
    /** Further members: `cursor`, `epoch`, `state`. */
    members;
    retryAfterMs;
    constructor(status, code, detail, members = {}, retryAfterMs) {
        super(detail === "" ? `${status} ${code}` : `${status} ${code}: ${detail}`);
        this.status = status;
        this.code = code;
        this.members = members;
        this.retryAfterMs = retryAfterMs;
    }
}
/** The connection failed, or an answer broke off: whether the request was carried out is unknown. */
export class Disconnected extends Error {
    name = "Disconnected";
}
const PASSING = new Set([408, 425, 429, 500, 502, 503, 504]);
/** Whether the same request may succeed later. */
export function mayPass(error) {
    return error instanceof Problem ? PASSING.has(error.status) : error instanceof Disconnected;
}
/**
 * Pauses between attempts: uniformly from nothing to a bound that doubles, so that a thousand
 * clients of a server that restarts do not come back at once ("full jitter").
 */
export class Backoff {
    #attempt = 0;
    #wake;
    #options;
    constructor(options = {}) {
        this.#options = { firstMs: 250, longestMs: 30_000, random: Math.random, ...options };
    }
    /** Begin with short pauses again. */
    reset() {
        this.#attempt = 0;
    }
    /** End a pause that is under way: the network is back. */
    wake() {
        this.#wake?.();
    }
    /** Pause before the next attempt, at least as long as the server asked for. */
    async pause(error, signal) {
        const { firstMs, longestMs, random } = this.#options;
        const bound = Math.min(longestMs, firstMs * 2 ** this.#attempt++);
        const asked = error instanceof Problem ? (error.retryAfterMs ?? 0) : 0;
        await new Promise((resolve) => {
            const done = () => {
                clearTimeout(timer);
                signal?.removeEventListener("abort", done);
                this.#wake = undefined;
                resolve();
            };
            const timer = setTimeout(done, asked + random() * bound);
            this.#wake = done;
            if (signal?.aborted)
                done();
            signal?.addEventListener("abort", done);
        });
    }
}
/** A server, and who asks. */
export class Api {
    url;
    backoff;
    WebSocket;
    #token;
    #attempts;
    #fetch;
    constructor(options) {
        this.url = options.url.replace(/\/+$/, "");
        this.backoff = options.backoff ?? {};
        this.WebSocket = options.WebSocket ?? globalThis.WebSocket;
        this.#token = options.token;
        this.#attempts = options.attempts ?? 5;
        // Browsers refuse a fetch that is called as a method of something else.
        this.#fetch = options.fetch ?? ((...call) => globalThis.fetch(...call));
    }
    /** The credential to send; a fresh one where the last was refused. */
    async token(wasRefused = false) {
        return typeof this.#token === "string" ? this.#token : await this.#token(wasRefused);
    }
    /** Whether there may be another credential than the one that was refused. */
    get canRenew() {
        return typeof this.#token === "function";
    }
    /**
     * One request, tried again while that may help. What is sent here may be sent twice: the relay
     * knows the bytes again, jobs their token.
     *
     * @throws Problem for a refusal, Disconnected where no answer came, AbortError.
     */
    async request(method, path, ask = {}) {
        const backoff = new Backoff(this.backoff);
        for (let attempt = 1;; attempt++) {
            try {
                return await this.#admitted(method, path, ask);
            }
            catch (error) {
                if (ask.retry === false || attempt >= this.#attempts || !mayPass(error))
                    throw error;
                await backoff.pause(error, ask.signal);
                ask.signal?.throwIfAborted();
            }
        }
    }
    /** The same, and its JSON. */
    async json(method, path, ask = {}) {
        const answer = await this.request(method, path, ask);
        return await reading(() => answer.json());
    }
    async #admitted(method, path, ask) {
        try {
            return await this.#once(method, path, ask, await this.token());
        }
        catch (error) {
            if (!(error instanceof Problem && error.status === 401 && this.canRenew))
                throw error;
            return await this.#once(method, path, ask, await this.token(true));
        }
    }
    async #once(method, path, ask, token) {
        const headers = { authorization: `Bearer ${token}`, ...ask.headers };
        const init = { method, headers };
        if (ask.body instanceof Uint8Array) {
            headers["content-type"] = "application/octet-stream";
            init.body = ask.body;
        }
        else if (ask.body !== undefined) {
            headers["content-type"] = "application/json";
            init.body = JSON.stringify(ask.body);
        }
        if (ask.signal !== undefined)
            init.signal = ask.signal;
        const answer = await reading(() => this.#fetch(this.url + path, init));
        if (answer.ok || ask.expect?.includes(answer.status))
            return answer;
        throw await problemOf(answer);
    }
}
/** Wait for something of the network's; a failure of it is Disconnected. */
export async function reading(read) {
    try {
        return await read();
    }
    catch (error) {
        if (error instanceof Error && error.name === "AbortError")
            throw error;
        throw new Disconnected("the connection failed", { cause: error });
    }
}
async function problemOf(answer) {
    let members = {};
    try {
        members = (await answer.json());
    }
    catch {
        // A proxy's page, or nothing: the status says what there is to say.
    }
    const seconds = Number(answer.headers.get("retry-after") ?? "0");
    return new Problem(answer.status, typeof members["code"] === "string" ? members["code"] : "unknown", typeof members["detail"] === "string" ? members["detail"] : "", members, seconds > 0 ? seconds * 1000 : undefined);
}
