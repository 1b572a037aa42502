// Keeps the page and the modules it loads, so that it opens without a network.

const CACHE = "todo-1";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(fill()));
self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET" && new URL(event.request.url).origin === location.origin) {
    event.respondWith(answer(event.request));
  }
});

async function fill() {
  await self.clients.claim();
  const cache = await caches.open(CACHE);
  const page = new URL("./", location.href);
  const client = new URL("../../clients/js/dist/", page);
  const seen = new Set();
  // Modules name what they import, so the page's own need no list here.
  async function keep(url) {
    if (seen.has(url.href)) return;
    seen.add(url.href);
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url}: ${response.status}`);
    await cache.put(url, response.clone());
    if (!url.pathname.endsWith(".js")) return;
    const imports = (await response.text()).matchAll(/ from "(\.\/[^"]+)"/g);
    await Promise.all([...imports].map(([, path]) => keep(new URL(path, url))));
  }
  await keep(page);
  await keep(new URL("index.js", client));
}

/** The newest there is; what was kept where there is no network. */
async function answer(request) {
  try {
    return await fetch(request);
  } catch (error) {
    const kept = await caches.match(request, { ignoreSearch: true });
    if (kept === undefined) throw error;
    return kept;
  }
}
