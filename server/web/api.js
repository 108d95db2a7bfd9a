// Calls of the API, by the session cookie of this page.

/** What the server refused, in its own words. */
export class Refused extends Error {
  /** @param {number} status @param {{error?: string, code?: string, details?: Record<string, string>}} body @param {number} after */
  constructor(status, body, after) {
    super(body.error ?? `The server answered ${status}.`);
    this.status = status;
    this.code = body.code ?? "";
    this.details = body.details ?? {};
    this.after = after; // seconds to wait, where the server says so
  }

  /** Whether the same again may succeed. */
  get passing() {
    return this.status >= 500 || this.status === 429 || this.status === 408;
  }
}

/** Called when the session is over. @type {{ended: () => void}} */
export const session = { ended: () => {} };

const CSRF = /(?:^|;\s*)(?:__Host-)?bobbin_csrf=([^;]+)/;

/**
 * @param {string} method
 * @param {string} path
 * @param {any} [body]
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>} the JSON; null of 204. Throws Refused, or TypeError when the server can't be reached.
 */
export async function call(method, path, body, signal) {
  /** @type {Record<string, string>} */
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const token = CSRF.exec(document.cookie);
  if (method !== "GET" && token) headers["X-CSRF-Token"] = decodeURIComponent(token[1]);
  const answer = await fetch(path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    credentials: "same-origin",
    cache: "no-store",
    signal,
  });
  if (answer.status === 204) return null;
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) return said;
  if (answer.status === 401 && !path.startsWith("/api/auth/")) session.ended();
  throw new Refused(answer.status, said, Number(answer.headers.get("Retry-After") ?? 0));
}

/** @param {string} path @param {AbortSignal} [signal] */
export const get = (path, signal) => call("GET", path, undefined, signal);
/** @param {string} path @param {any} [body] */
export const post = (path, body = {}) => call("POST", path, body);
