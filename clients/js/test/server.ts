// The server that a test talks to, as its environment names it.

import { Api, type ApiOptions } from "../src/index.ts";

export const url = needed("URL");
export const key = needed("KEY");

/** Short pauses: a test waits for each. */
export const backoff = { firstMs: 20, longestMs: 200 };

export function api(options: Partial<ApiOptions> = {}): Api {
  return new Api({ url, token: key, backoff, ...options });
}

let count = 0;

/** A name that no other test has. */
export function fresh(prefix: string): string {
  return `${prefix}-${process.pid}-${count++}`;
}

export function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

export function text(blob: Uint8Array): string {
  return new TextDecoder().decode(blob);
}

function needed(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name} is not set`);
  return value;
}
