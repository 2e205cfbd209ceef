// Who watches in this browser: names and what was shown to them stay here; what is learned of them is the service's.

import { newId } from "./api.js";

const KEY = "feed-bandit-viewers";
const MOST_SHOWN = 400;

function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY));
    return Array.isArray(kept?.viewers) ? kept : { viewers: [], now: null };
  } catch {
    return { viewers: [], now: null };
  }
}

function write(kept) {
  try { localStorage.setItem(KEY, JSON.stringify(kept)); } catch { /* A browser that keeps nothing: this page will do. */ }
}

export const all = () => read().viewers;

/** Who watches in this tab: the one that the address names, else the last one. */
export function current() {
  const { viewers, now } = read();
  const asked = new URLSearchParams(location.search).get("viewer");
  return viewers.find((one) => one.id === asked) ?? viewers.find((one) => one.id === now) ?? null;
}

export function create(name, interests) {
  const kept = read(), number = kept.viewers.length + 1;
  const viewer = { id: newId("demo-viewer-"), name: name.trim() || `Viewer ${number}`, interests, shown: [] };
  kept.viewers.push(viewer);
  write({ ...kept, now: viewer.id });
  return viewer;
}

export function choose(id) { write({ ...read(), now: id }); }

export function remove(id) {
  const kept = read();
  write({ viewers: kept.viewers.filter((one) => one.id !== id), now: null });
}

/** One more clip that they saw: [id of the clip, whether they stayed with it]. */
export function remember(id, clip, stayed) {
  const kept = read(), viewer = kept.viewers.find((one) => one.id === id);
  if (!viewer) return [];
  viewer.shown = [...viewer.shown, [clip, stayed ? 1 : 0]].slice(-MOST_SHOWN);
  write(kept);
  return viewer.shown;
}

export function hue(id) {
  let sum = 0;
  for (const letter of id) sum = (sum * 31 + letter.charCodeAt(0)) % 360;
  return sum;
}

/** A viewer's first letter in their colour. */
export function face(viewer, element = document.createElement("span")) {
  element.className = "face";
  element.textContent = [...viewer.name][0].toUpperCase();
  element.style.setProperty("--face", hue(viewer.id));
  return element;
}
