// Following a document: one connection after another, each from where the last one ended.

import { Backoff, mayPass, Problem } from "./api.ts";
import type { FollowOptions, RelayDocument } from "./document.ts";
import type { News } from "./entry.ts";
import { longPoll, serverSent, writerIn } from "./polling.ts";
import { overSocket } from "./socket.ts";

/** How often to look whether a document exists by now. */
const ABSENT_MS = 2_000;

/** From where one connection goes on. */
export interface From {
  since: string | undefined;
  epoch: number | undefined;
  /** Whether the last credential was refused. */
  refused: boolean;
  signal: AbortSignal | undefined;
}

/** One connection's news, until it ends or throws. */
export type Listen = (document: RelayDocument, from: From) => AsyncGenerator<News>;

const LISTEN: Record<string, Listen> = {
  websocket: overSocket,
  sse: serverSent,
  "long-poll": longPoll,
};

/** See `RelayDocument.follow`. */
export async function* follow(
  document: RelayDocument,
  options: FollowOptions,
): AsyncGenerator<News> {
  const listen = LISTEN[options.via ?? "websocket"] as Listen;
  const { signal } = options;
  const from: From = { since: options.since, epoch: options.epoch, refused: false, signal };
  const backoff = new Backoff(document.api.backoff);
  const absent = new Backoff({ ...document.api.backoff, longestMs: ABSENT_MS });
  const wake = () => backoff.wake();
  const target = globalThis as Partial<EventTarget>;
  target.addEventListener?.("online", wake);
  try {
    while (!signal?.aborted) {
      let error: unknown;
      try {
        for await (const news of listen(document, from)) {
          if (news.type === "entries" || news.type === "up_to_date") {
            from.since = news.cursor ?? from.since;
            from.refused = false;
            backoff.reset();
          }
          if (news.type === "open") from.epoch = news.epoch ?? from.epoch;
          yield news;
          if (news.type === "deleted") return;
        }
      } catch (caught) {
        error = caught;
      }
      if (signal?.aborted) return;
      yield { type: "closed", error };
      if (error instanceof Problem) {
        for (const news of goOn(document, from, error)) {
          yield news;
          if (news.type === "deleted") return;
        }
      } else if (error !== undefined && !mayPass(error)) {
        throw error;
      }
      const isAbsent = error instanceof Problem && error.status === 404;
      await (isAbsent ? absent : backoff).pause(error, signal);
    }
  } finally {
    target.removeEventListener?.("online", wake);
  }
}

/** What a refusal means for the next connection; throws it where there is none. */
function goOn(document: RelayDocument, from: From, problem: Problem): News[] {
  const { cursor, epoch } = problem.members;
  switch (problem.code) {
    case "cursor_compacted":
      // A WebSocket's close has no room for the cursor; what lives is the whole document as well.
      from.since = typeof cursor === "string" ? cursor : undefined;
      return [];
    case "cursor_ahead":
      from.since = undefined;
      from.epoch = undefined;
      return [{ type: "restored" }];
    case "epoch_ended":
      return [{ type: "deleted", epoch: typeof epoch === "number" ? epoch : undefined }];
  }
  if (problem.status === 404) {
    // The document comes into being with somebody's first write, which may be ours.
    const writer = writerIn(document, from.epoch, from);
    return [
      { type: "open", epoch: from.epoch, writer },
      { type: "up_to_date", cursor: undefined },
    ];
  }
  if (problem.status === 401 && document.api.canRenew && !from.refused) {
    from.refused = true;
    return [];
  }
  if (mayPass(problem)) return [];
  throw problem;
}
