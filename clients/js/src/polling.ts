// Listening over HTTP: an event stream, or a request that waits.

import { Disconnected, reading } from "./api.ts";
import { fromBase64 } from "./bytes.ts";
import { entryOf, type EntryShown, query, type RelayDocument } from "./document.ts";
import type { News, Writer } from "./entry.ts";
import { events } from "./events.ts";
import type { From } from "./following.ts";

const SILENCE_MS = 45_000;
const WAIT_MS = 30_000;

/** Server-sent events. */
export async function* serverSent(document: RelayDocument, from: From): AsyncGenerator<News> {
  const answer = await ask(document, from, { live: "sse" });
  const epoch = epochOf(answer);
  yield { type: "open", epoch, writer: writerIn(document, epoch, from) };
  for await (const event of events(answer, SILENCE_MS)) {
    if (event.comment === "up to date") {
      yield { type: "up_to_date", cursor: undefined };
    } else if (event.comment !== undefined || event.data === "") {
      continue;
    } else if (event.event === "ephemeral") {
      yield { type: "presence", blob: fromBase64(JSON.parse(event.data).blob) };
    } else if (event.event === "deleted") {
      yield { type: "deleted", epoch: JSON.parse(event.data).epoch };
    } else if (event.id !== undefined) {
      const entry = entryOf(JSON.parse(event.data) as EntryShown);
      yield { type: "entries", entries: [entry], cursor: event.id };
    }
  }
  throw new Disconnected("the event stream ended");
}

/** Requests that wait for the first entry. They hear no presence. */
export async function* longPoll(document: RelayDocument, from: From): AsyncGenerator<News> {
  let since = from.since;
  let isOpen = false;
  while (true) {
    // Until it is up to date it asks without waiting, so as to say when it is.
    const timeout_ms = isOpen ? WAIT_MS : 0;
    const answer = await ask(document, { ...from, since }, { live: "long-poll", timeout_ms });
    if (!isOpen) {
      const epoch = epochOf(answer);
      yield { type: "open", epoch, writer: writerIn(document, epoch, from) };
    }
    if (answer.status === 200) {
      const page = await reading(() => answer.json() as Promise<Listed>);
      since = page.next_cursor;
      yield { type: "entries", entries: page.data.map(entryOf), cursor: since };
      if (page.up_to_date) yield { type: "up_to_date", cursor: since };
    } else if (!isOpen) {
      yield { type: "up_to_date", cursor: undefined };
    }
    isOpen = true;
  }
}

interface Listed {
  data: EntryShown[];
  next_cursor: string;
  up_to_date: boolean;
}

async function ask(
  document: RelayDocument,
  from: From,
  parameters: Record<string, string | number | undefined>,
): Promise<Response> {
  const asked = query({ ...parameters, since: from.since, blobs: "inline" });
  return await document.api.request("GET", `${document.path}/entries?${asked}`, {
    signal: from.signal,
    retry: false,
  });
}

function epochOf(answer: Response): number | undefined {
  const said = answer.headers.get("x-epoch");
  return said === null ? undefined : Number(said);
}

/** The document's writes, all in one epoch, so that none brings a deleted document back. */
export function writerIn(document: RelayDocument, epoch: number | undefined, from: From): Writer {
  const options = { epoch, signal: from.signal };
  return {
    append: (blob) => document.append(blob, options),
    putState: (replica, blob) => document.putState(replica, blob, options),
    compact: (blob, supersedes) => document.compact(blob, supersedes, options),
    whisper: (blob) => document.whisper(blob),
  };
}
