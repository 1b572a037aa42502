// node consumer.mjs: handles each event of the stream `orders` at least once, whatever crashes.
import { Api, consume } from "../../clients/js/dist/index.js";

const stop = new AbortController();
process.on("SIGTERM", () => stop.abort());
await consume(new Api({ url: process.env.URL, token: process.env.KEY }), {
  stream: "orders", group: "mailer", consumer: process.argv[2] ?? "mailer-1", signal: stop.signal,
  handle: (event) => console.log(event.id, event.data.id), // safe to repeat: the id stays the same
});
