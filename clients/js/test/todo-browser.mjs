// A real browser that opens the to-do list, told line by line: `open NAME ADDRESS`, `add NAME TEXT`,
// `tick NAME TEXT`, `remove NAME TEXT`, `reload NAME`, `status NAME`, `show NAME`. Each name is a
// profile of its own.

import { createInterface } from "node:readline";

import { chromium } from "playwright-core";

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
});
const pages = new Map();

const commands = {
  async open(name, address) {
    const page = await (await browser.newContext()).newPage();
    page.on("pageerror", (error) => console.error(`${name}: ${error}`));
    pages.set(name, page);
    await page.goto(address);
    await ready(page);
    // Controlled from its second load on, or from the moment that the worker claims it.
    await page.evaluate(async () => {
      const { active } = await navigator.serviceWorker.ready;
      while (active.state !== "activated") await new Promise((done) => setTimeout(done, 20));
    });
  },
  async add(name, text) {
    const page = pages.get(name);
    await page.fill("#new input", text);
    await page.press("#new input", "Enter");
    await page.waitForFunction((wanted) => document.body.innerText.includes(wanted), text);
  },
  tick: (name, text) => pages.get(name).getByLabel(text, { exact: true }).click(),
  remove: (name, text) => pages.get(name).getByLabel(`Remove ${text}`, { exact: true }).click(),
  async reload(name) {
    const page = pages.get(name);
    await page.reload();
    await ready(page);
  },
  status: (name) => pages.get(name).textContent("#status"),
  show: (name) =>
    pages.get(name).$$eval("#list li", (lines) =>
      lines.map((line) => [
        line.querySelector("label").textContent,
        line.querySelector("input").checked,
      ]),
    ),
};

function ready(page) {
  return page.waitForSelector("body[data-ready]", { state: "attached" });
}

for await (const line of createInterface({ input: process.stdin })) {
  const [word, name, ...rest] = line.split(" ");
  if (word === "close") break;
  console.log(JSON.stringify((await commands[word](name, rest.join(" "))) ?? null));
}
await browser.close();
