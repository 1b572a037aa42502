// Hocuspocus with its SQLite extension: node server.mjs PORT DATABASE [DEBOUNCE_MS]
import { SQLite } from "@hocuspocus/extension-sqlite";
import { Server } from "@hocuspocus/server";

const [port, database, debounce] = process.argv.slice(2);
const settings = debounce === undefined ? {} : { debounce: Number(debounce), maxDebounce: Number(debounce) };
const server = new Server({
  port: Number(port),
  address: "127.0.0.1",
  quiet: true,
  extensions: [new SQLite({ database })],
  ...settings,
});
await server.listen();
