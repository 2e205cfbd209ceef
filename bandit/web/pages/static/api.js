// The service's API, as the pages ask it: JSON in, JSON out, errors with the service's own words.

const RETRIES = 3;
const token = document.querySelector('meta[name="csrf-token"]')?.content;
const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

export class ApiError extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `the service answered ${status}`);
    this.status = status;
    this.code = body?.error?.code;
  }
}

/** Ask; all that is sent bears an id, so asking again is harmless, and is done when the service is busy or away. */
export async function ask(method, path, body, { keepalive = false } = {}) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  if (token && method !== "GET") headers["X-CSRF-Token"] = token;
  const request = { method, headers, keepalive, body: body === undefined ? undefined : JSON.stringify(body) };
  for (let turn = 0; ; turn++) {
    let response;
    try {
      response = await fetch(path, request);
    } catch (error) {
      if (turn >= RETRIES) throw new Error("the service cannot be reached", { cause: error });
      await pause(300 * 2 ** turn);
      continue;
    }
    const text = await response.text();
    if (response.ok) return text ? JSON.parse(text) : null;
    const retry = response.status === 429 || response.status === 503;
    if (!retry || turn >= RETRIES) throw new ApiError(response.status, readable(text));
    await pause(Math.min(Number(response.headers.get("Retry-After")) || 1, 5) * 1000);
  }
}

function readable(text) {
  try { return JSON.parse(text); } catch { return null; }
}

/** An id that nobody can guess. */
export function newId(prefix) {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return prefix + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const rank = (request) => ask("POST", "/v1/rank", request);
export const activate = (id) => ask("POST", `/v1/events/${encodeURIComponent(id)}/activate`);
export const feedback = (body, options) => ask("POST", "/v1/feedback", body, options);
export const story = (id) => ask("GET", `/v1/events/${encodeURIComponent(id)}`);
export const user = (id) => ask("GET", `/v1/users/${encodeURIComponent(id)}`);
export const putUser = (id, interests) => ask("PUT", `/v1/users/${encodeURIComponent(id)}`, { interests });
export const forget = (id) => ask("DELETE", `/v1/users/${encodeURIComponent(id)}`);
export const begin = (anyway) => ask("POST", "/feed/begin", { anyway });
export const clips = () => ask("GET", document.body.dataset.clips);

/** A feed of so many of all clips. They are offered in no order of ours: where nothing is known, the caller's decides. */
export function rankFeed({ viewer, ids, slots, explain = true }) {
  const candidates = [...ids];
  for (let i = candidates.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [candidates[i], candidates[j]] = [candidates[j], candidates[i]];
  }
  const request = { event_id: newId("demo-"), user: { id: viewer }, slots, candidates, explain, defer_activation: true };
  return rank(request).then((reply) => ({ ...reply, n: candidates.length }));
}
