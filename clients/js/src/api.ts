// Requests to a server: the credential, problems as errors, and trying again.

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
export class Problem extends Error {
  override name = "Problem";
  readonly status: number;
  /** What to program against: `cursor_compacted`, `lease_lost`. */
  readonly code: string;
  /** Further members: `cursor`, `epoch`, `state`. */
  readonly members: Record<string, unknown>;
  readonly retryAfterMs: number | undefined;

  constructor(
    status: number,
    code: string,
    detail: string,
    members: Record<string, unknown> = {},
    retryAfterMs?: number,
  ) {
    super(detail === "" ? `${status} ${code}` : `${status} ${code}: ${detail}`);
    this.status = status;
    this.code = code;
    this.members = members;
    this.retryAfterMs = retryAfterMs;
  }
}

/** The connection failed, or an answer broke off: whether the request was carried out is unknown. */
export class Disconnected extends Error {
  override name = "Disconnected";
}

const PASSING = new Set([408, 425, 429, 500, 502, 503, 504]);

/** Whether the same request may succeed later. */
export function mayPass(error: unknown): boolean {
  return error instanceof Problem ? PASSING.has(error.status) : error instanceof Disconnected;
}

/**
 * Pauses between attempts: uniformly from nothing to a bound that doubles, so that a thousand
 * clients of a server that restarts do not come back at once ("full jitter").
 */
export class Backoff {
  #attempt = 0;
  #wake: (() => void) | undefined;
  readonly #options: Required<BackoffOptions>;

  constructor(options: BackoffOptions = {}) {
    this.#options = { firstMs: 250, longestMs: 30_000, random: Math.random, ...options };
  }

  /** Begin with short pauses again. */
  reset(): void {
    this.#attempt = 0;
  }

  /** End a pause that is under way: the network is back. */
  wake(): void {
    this.#wake?.();
  }

  /** Pause before the next attempt, at least as long as the server asked for. */
  async pause(error: unknown, signal?: AbortSignal): Promise<void> {
    const { firstMs, longestMs, random } = this.#options;
    const bound = Math.min(longestMs, firstMs * 2 ** this.#attempt++);
    const asked = error instanceof Problem ? (error.retryAfterMs ?? 0) : 0;
    await new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", done);
        this.#wake = undefined;
        resolve();
      };
      const timer = setTimeout(done, asked + random() * bound);
      this.#wake = done;
      if (signal?.aborted) done();
      signal?.addEventListener("abort", done);
    });
  }
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
export class Api {
  readonly url: string;
  readonly backoff: BackoffOptions;
  readonly WebSocket: typeof globalThis.WebSocket | undefined;
  readonly #token: TokenSource;
  readonly #attempts: number;
  readonly #fetch: typeof globalThis.fetch;

  constructor(options: ApiOptions) {
    this.url = options.url.replace(/\/+$/, "");
    this.backoff = options.backoff ?? {};
    this.WebSocket = options.WebSocket ?? globalThis.WebSocket;
    this.#token = options.token;
    this.#attempts = options.attempts ?? 5;
    // Browsers refuse a fetch that is called as a method of something else.
    this.#fetch = options.fetch ?? ((...call) => globalThis.fetch(...call));
  }

  /** The credential to send; a fresh one where the last was refused. */
  async token(wasRefused = false): Promise<string> {
    return typeof this.#token === "string" ? this.#token : await this.#token(wasRefused);
  }

  /** Whether there may be another credential than the one that was refused. */
  get canRenew(): boolean {
    return typeof this.#token === "function";
  }

  /**
   * One request, tried again while that may help. What is sent here may be sent twice: the relay
   * knows the bytes again, jobs their token.
   *
   * @throws Problem for a refusal, Disconnected where no answer came, AbortError.
   */
  async request(method: string, path: string, ask: Ask = {}): Promise<Response> {
    const backoff = new Backoff(this.backoff);
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#admitted(method, path, ask);
      } catch (error) {
        if (ask.retry === false || attempt >= this.#attempts || !mayPass(error)) throw error;
        await backoff.pause(error, ask.signal);
        ask.signal?.throwIfAborted();
      }
    }
  }

  /** The same, and its JSON. */
  async json<T>(method: string, path: string, ask: Ask = {}): Promise<T> {
    const answer = await this.request(method, path, ask);
    return await reading(() => answer.json() as Promise<T>);
  }

  async #admitted(method: string, path: string, ask: Ask): Promise<Response> {
    try {
      return await this.#once(method, path, ask, await this.token());
    } catch (error) {
      if (!(error instanceof Problem && error.status === 401 && this.canRenew)) throw error;
      return await this.#once(method, path, ask, await this.token(true));
    }
  }

  async #once(method: string, path: string, ask: Ask, token: string): Promise<Response> {
    const headers: Record<string, string> = { authorization: `Bearer ${token}`, ...ask.headers };
    const init: RequestInit = { method, headers };
    if (ask.body instanceof Uint8Array) {
      headers["content-type"] = "application/octet-stream";
      init.body = ask.body as BodyInit;
    } else if (ask.body !== undefined) {
      headers["content-type"] = "application/json";
      init.body = JSON.stringify(ask.body);
    }
    if (ask.signal !== undefined) init.signal = ask.signal;
    const answer = await reading(() => this.#fetch(this.url + path, init));
    if (answer.ok || ask.expect?.includes(answer.status)) return answer;
    throw await problemOf(answer);
  }
}

/** Wait for something of the network's; a failure of it is Disconnected. */
export async function reading<T>(read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof Error && error.name === "AbortError") throw error;
    throw new Disconnected("the connection failed", { cause: error });
  }
}

async function problemOf(answer: Response): Promise<Problem> {
  let members: Record<string, unknown> = {};
  try {
    members = (await answer.json()) as Record<string, unknown>;
  } catch {
    // A proxy's page, or nothing: the status says what there is to say.
  }
  const seconds = Number(answer.headers.get("retry-after") ?? "0");
  return new Problem(
    answer.status,
    typeof members["code"] === "string" ? members["code"] : "unknown",
    typeof members["detail"] === "string" ? members["detail"] : "",
    members,
    seconds > 0 ? seconds * 1000 : undefined,
  );
}
