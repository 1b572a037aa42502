// Server-sent events read from a fetch: EventSource can send no Authorization header.
import { reading, Disconnected } from "./api.js";
/**
 * Each event of a stream, and each comment, until it ends.
 *
 * @throws Disconnected where it breaks off, or nothing came for `silenceMs`: the server sends a
 *   comment every 15 s, so a longer silence is a connection that has died unnoticed.
 */
export async function* events(answer, silenceMs) {
    const reader = answer.body?.getReader();
    if (reader === undefined)
        return;
    const decoder = new TextDecoder();
    let rest = "";
    try {
        while (true) {
            const piece = await reading(() => within(silenceMs, reader.read()));
            if (piece.done)
                return;
            rest += decoder.decode(piece.value, { stream: true });
            const blocks = rest.split("\n\n");
            rest = blocks.pop() ?? "";
            for (const block of blocks)
                yield parsed(block);
        }
    }
    finally {
        // Not awaited: a connection that has died does not answer this either.
        reader.cancel().catch(() => { });
    }
}
function parsed(block) {
    const event = { id: undefined, event: "message", data: "", comment: undefined };
    const data = [];
    for (const line of block.split("\n")) {
        const colon = line.indexOf(":");
        const name = line.slice(0, colon);
        const value = line.slice(colon + 1).replace(/^ /, "");
        if (name === "")
            event.comment = value;
        else if (name === "id")
            event.id = value;
        else if (name === "event")
            event.event = value;
        else if (name === "data")
            data.push(value);
    }
    event.data = data.join("\n");
    return event;
}
async function within(timeMs, promise) {
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Disconnected("the server is silent")), timeMs);
    });
    try {
        return await Promise.race([promise, late]);
    }
    finally {
        clearTimeout(timer);
    }
}
