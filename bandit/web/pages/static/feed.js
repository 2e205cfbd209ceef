// The demo feed: a client of the API like any other. It asks for short feeds ahead of time, tells when one is shown,
// measures how long each clip is really watched, and says what the viewer did when they move on.

import * as api from "./api.js";
import * as panel from "./panel.js";
import * as viewers from "./viewers.js";
import { hum, silence } from "./hum.js";
import { HUES, painter, signCanvas } from "./scenes.js";
import { deed } from "./words.js";

const $ = (id) => document.getElementById(id);
const page = document.body.dataset;
const SLOTS = Number(page.slots);
const SIGNALS = new Set(page.signals.split(" "));
/** Whoever moves on so soon, without a sign of liking it, skipped the clip. */
const SKIPPED_S = 3;
/** A new feed is asked for when no more than so many clips are left below. */
const AHEAD = 1;
/** How long to wait for a lesson before the panel stops asking. */
const LESSON_MS = [350, 500, 700, 1000, 1500, 2500];
const ROUND_MS = 500;
const still = matchMedia("(prefers-reduced-motion: reduce)");

let clipsById = new Map();
let tags = [];
let viewer = null;
let cards = [];
let active = -1;
/** Goes up when everything below is thrown away: what was asked for before does not count any more. */
let edition = 0;
let loading = null;
let sounding = false;
let paused = false;
let shownPanel = null;

// ---------------------------------------------------------------- clips on the page

class Card {
  constructor(feed, slot) {
    const { id } = feed.ranking[slot];
    this.feed = feed;
    this.slot = slot;
    this.clip = clipsById.get(id) ?? { id, creator: "?", caption: id, tags: ["space"], sound: "", language: "", length_s: 10, seed: 1, hue: 0 };
    this.element = $("clip-template").content.firstElementChild.cloneNode(true);
    this.canvas = this.element.querySelector("canvas");
    this.paint = painter(this.clip);
    this.said = { liked: false, followed: false, shared: false, refused: null };
    this.told = false;
    this.watchedMs = 0;
    this.since = null;
    this.startMs = 0;
    this.write();
  }

  write() {
    const { clip, element, feed, slot } = this;
    const put = (selector, text) => { element.querySelector(selector).textContent = text; };
    put(".creator b", `@${clip.creator}`);
    put(".language", clip.language);
    put(".caption", clip.caption);
    put(".hashtags", clip.tags.map((tag) => `#${tag}`).join(" "));
    put(".tune", clip.sound);
    element.querySelector(".wild").hidden = !feed.explanation?.find((one) => one.id === clip.id)?.exploratory;
    element.setAttribute("aria-label", `${clip.caption}, by ${clip.creator}: ${clip.tags.join(", ")}`);
    Object.assign(element.dataset, { id: clip.id, tag: clip.tags[0], tags: clip.tags.join(" "), creator: clip.creator, event: feed.event_id, slot });
  }

  get watched() { return (this.watchedMs + (this.since === null ? 0 : performance.now() - this.since)) / 1000; }
  get time() { return this.watched - this.startMs / 1000; }

  play() { this.since ??= performance.now(); this.element.classList.add("playing"); }

  pause() {
    if (this.since !== null) this.watchedMs += performance.now() - this.since;
    this.since = null;
    this.element.classList.remove("playing");
  }

  /** One frame; in half the resolution where drawing takes long. */
  draw(t) {
    const box = this.element.getBoundingClientRect(), sharp = Math.min(devicePixelRatio || 1, 2) * this.constructor.quality;
    const width = Math.round(box.width * sharp), height = Math.round(box.height * sharp);
    if (!width || !height) return;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const began = performance.now();
    this.paint(this.canvas.getContext("2d"), t, width, height);
    const took = performance.now() - began;
    Card.slow = Card.slow * 0.9 + took * 0.1;
    if (Card.slow > 14 && Card.quality > 0.5) { Card.quality = 0.5; Card.slow = 0; }
  }

  /** What the service is told: every signal that its config knows, and that nothing more will come. */
  signals() {
    const { liked, followed, shared, refused } = this.said, watch_s = Math.round(this.watched * 100) / 100;
    const skip = watch_s < Math.min(SKIPPED_S, this.clip.length_s * 0.9) && !liked && !shared && !followed;
    const all = { watch_s, ...(liked && { like: 1 }), ...(followed && { follow: 1 }), ...(shared && { share: 1 }),
      ...(refused && { not_interested: 1 }), ...(skip && { skip: 1 }) };
    return Object.fromEntries(Object.entries(all).filter(([name]) => SIGNALS.has(name)));
  }

  get stayed() {
    const { liked, shared, followed, refused } = this.said;
    return !refused && (liked || shared || followed || this.watched >= this.clip.length_s / 2);
  }
}
Card.quality = 1;
Card.slow = 0;

// ---------------------------------------------------------------- talking to the service

function toast(text, ms = 2600) {
  const element = $("toast");
  element.textContent = text;
  element.classList.add("up");
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => element.classList.remove("up"), ms);
}

function trouble(error) {
  console.warn(error.message);
  toast(error.status === 401 || error.status === 403 ? `Sign in first: ${error.message}` : error.message, 6000);
}

/** One more feed below; one at a time. */
function more() {
  if (loading !== null || !viewer) return loading;
  const mine = edition;
  $("feed").setAttribute("aria-busy", "true");
  loading = api.rankFeed({ viewer: viewer.id, ids: clipsById.keys(), slots: SLOTS }).then((feed) => {
    if (mine !== edition) return;
    feed.shown = false;
    const added = feed.ranking.map((_, slot) => new Card(feed, slot));
    cards.push(...added);
    $("feed").append(...added.map((card) => card.element));
    cards.forEach((card, i) => { card.element.setAttribute("aria-posinset", i + 1); card.element.setAttribute("aria-setsize", "-1"); });
    if (active < 0 && cards.length) show(0);
    else neighbours();
  }).catch((error) => { if (mine === edition) trouble(error); }).finally(() => {
    if (mine !== edition) return;
    loading = null;
    $("feed").setAttribute("aria-busy", "false");
  });
  return loading;
}

/** The viewer leaves a clip: say what they did with it, once, and look what it taught. */
function leave(card, { keepalive = false } = {}) {
  card.pause();
  if (card.told) return null;
  card.told = true;
  const body = { event_id: card.feed.event_id, feedback_id: `${card.feed.event_id}-${card.slot}`,
    items: [{ id: card.clip.id, signals: card.signals(), seen: true, final: true, ...(card.said.refused?.length && { about: card.said.refused }) }] };
  const did = deed({ watched: card.watched, length: card.clip.length_s, ...card.said });
  const shown = viewers.remember(viewer.id, card.clip.id, card.stayed);
  panel.course(shown, clipsById, (tag) => HUES[tag] ?? 0);
  const sent = api.feedback(body, { keepalive }), mine = viewer;
  if (!keepalive) sent.then(() => (viewer === mine ? lesson(card, did) : null)).catch(trouble);
  return sent;
}

let lessons = 0;

async function lesson(card, did) {
  const turn = ++lessons, told = { clip: card.clip, did, eventId: card.feed.event_id };
  panel.learned({ ...told, slot: null });
  for (const ms of LESSON_MS) {
    await new Promise((done) => { setTimeout(done, ms); });
    if (turn !== lessons) return;
    try {
      const slot = (await api.story(card.feed.event_id)).slots[card.slot];
      if (turn !== lessons) return;
      if (slot.status !== "open" && (slot.status !== "learned" || slot.model)) {
        panel.learned({ ...told, slot });
        await refresh();
        return;
      }
    } catch (error) { trouble(error); return; }
  }
}

/** Ask what is believed of the viewer, and show it. */
async function refresh() {
  const mine = viewer?.id;
  if (!mine) return;
  try {
    const user = await api.user(mine);
    if (mine === viewer?.id) panel.believed(user, tags);
  } catch (error) {
    if (error.status === 404) panel.believed(null, tags);
    else trouble(error);
  }
}

// ---------------------------------------------------------------- moving

let moving = null;

/** Make a card the one that plays. */
function show(index) {
  if (index === active || !cards[index]) return;
  const before = cards[active];
  active = index;
  if (before) leave(before);
  const card = cards[index];
  if (!card.feed.shown) {
    card.feed.shown = true;
    api.activate(card.feed.event_id).catch(trouble);
  }
  paused = false;
  if (!hidden()) card.play();
  if (sounding) hum(card.clip.sound);
  buttons();
  panel.why(card);
  neighbours();
  $("feed").dataset.active = card.clip.id;
  if (cards.length - 1 - index <= AHEAD) more();
}

/** Draw what can be seen while swiping, and let go of all other pictures. */
function neighbours() {
  cards.forEach((card, i) => {
    if (Math.abs(i - active) <= 1) card.draw(i === active ? card.time : 0.8);
    else if (card.canvas.width > 1) Object.assign(card.canvas, { width: 1, height: 1 });
  });
}

function step(by) {
  const to = Math.max(0, Math.min(cards.length - 1, (moving?.to ?? active) + by));
  if (!cards[to]) return;
  if (to === active && by > 0) { toast(loading ? "One moment …" : "That was all."); more(); return; }
  const box = $("feed");
  moving = { to, until: performance.now() + 900 };
  box.scrollTo({ top: to * box.clientHeight, behavior: still.matches ? "instant" : "smooth" });
  show(to);
}

$("feed").addEventListener("scroll", () => {
  const box = $("feed"), at = box.scrollTop / box.clientHeight;
  if (moving) {
    if (Math.abs(at - moving.to) < 0.02 || performance.now() > moving.until) moving = null;
    return;
  }
  const nearest = Math.round(at);
  if (Math.abs(at - nearest) < 0.35) show(Math.max(0, Math.min(cards.length - 1, nearest)));
}, { passive: true });

$("feed").addEventListener("scrollend", () => { moving = null; });

let turned = 0, restAt = 0;
$("feed").addEventListener("wheel", (event) => {
  if (event.ctrlKey) return;
  event.preventDefault();
  const now = performance.now();
  // One clip for one turn of the wheel, however long a trackpad goes on.
  if (now < restAt) { restAt = Math.max(restAt, Math.min(now + 90, restAt + 40)); return; }
  turned += event.deltaY;
  if (Math.abs(turned) < 30) return;
  step(Math.sign(turned));
  turned = 0;
  restAt = now + 420;
}, { passive: false });

new ResizeObserver(() => {
  const box = $("feed");
  if (active >= 0) box.scrollTo({ top: active * box.clientHeight, behavior: "instant" });
  neighbours();
}).observe($("feed"));

// ---------------------------------------------------------------- playing

const hidden = () => document.visibilityState === "hidden" || document.querySelector("dialog[open]") !== null;

function playOrPause() {
  const card = cards[active];
  if (!card) return;
  if (hidden() || paused) { card.pause(); silence(); } else { card.play(); if (sounding) hum(card.clip.sound); }
  document.body.classList.toggle("paused", paused);
}

document.addEventListener("visibilitychange", playOrPause);
addEventListener("pagehide", () => { const card = cards[active]; if (card && viewer) leave(card, { keepalive: true })?.catch(() => {}); });

let lastFrame = 0;
function frame(now) {
  requestAnimationFrame(frame);
  const card = cards[active];
  if (!card || now - lastFrame < 15) return;
  lastFrame = now;
  const { time } = card, { length_s } = card.clip;
  card.element.querySelector(".progress span").style.setProperty("--done", ((time / length_s) % 1).toFixed(4));
  if (card.since !== null && (!still.matches || card.drawn !== active)) { card.draw(still.matches ? 2.5 : time); card.drawn = active; }
  if (moving && now > moving.until) moving = null;
}
requestAnimationFrame(frame);

// ---------------------------------------------------------------- doing

function buttons() {
  const said = cards[active]?.said;
  for (const [id, name] of [["like", "liked"], ["follow", "followed"], ["share", "shared"]]) $(id).setAttribute("aria-pressed", String(said?.[name] ?? false));
}

function press(name, { only = false } = {}) {
  const card = cards[active];
  if (!card) return;
  if (card.told) { toast("It has heard of this clip already: what is final cannot be taken back."); return; }
  card.said[name] = only || !card.said[name];
  buttons();
  if (name === "liked" && card.said.liked) {
    const heart = card.element.querySelector(".heart");
    heart.classList.remove("beat");
    void heart.getBoundingClientRect();
    heart.classList.add("beat");
  }
  if (name === "shared" && card.said.shared) toast("Shared, as far as the service is concerned.");
  if (name === "followed" && card.said.followed) toast(`You follow @${card.clip.creator}.`);
}

$("like").addEventListener("click", () => press("liked"));
$("follow").addEventListener("click", () => press("followed"));
$("share").addEventListener("click", () => press("shared"));
$("replay").addEventListener("click", replay);
$("up").addEventListener("click", () => step(-1));
$("down").addEventListener("click", () => step(1));
$("no").addEventListener("click", askWhatNot);
$("why").addEventListener("click", () => openPanel(!$("panel").classList.contains("open")));
$("close-panel").addEventListener("click", () => { openPanel(false); $("why").focus(); });
$("hum").addEventListener("click", toggleSound);
$("open-help").addEventListener("click", () => ask($("help")));
$("open-viewers").addEventListener("click", askWho);

function replay() {
  const card = cards[active];
  if (card) card.startMs = card.watched * 1000;
}

function toggleSound() {
  sounding = !sounding;
  $("hum").setAttribute("aria-pressed", String(sounding));
  const card = cards[active];
  if (sounding && card) { hum(card.clip.sound); toast(`♪ ${card.clip.sound}`); } else silence();
}

function openPanel(open) {
  $("panel").classList.toggle("open", open);
  $("why").setAttribute("aria-expanded", String(open));
}

let tapAt = 0, tapX = 0, tapY = 0;
$("feed").addEventListener("pointerup", (event) => {
  if (event.button !== 0) return;
  const near = Math.hypot(event.clientX - tapX, event.clientY - tapY) < 40;
  if (event.timeStamp - tapAt < 320 && near) { press("liked", { only: true }); tapAt = 0; return; }
  [tapAt, tapX, tapY] = [event.timeStamp, event.clientX, event.clientY];
});

const KEYS = {
  ArrowDown: () => step(1), j: () => step(1), PageDown: () => step(1), ArrowUp: () => step(-1), k: () => step(-1), PageUp: () => step(-1),
  l: () => press("liked"), f: () => press("followed"), s: () => press("shared"), n: askWhatNot, r: replay, m: toggleSound,
  i: () => openPanel(!$("panel").classList.contains("open")), " ": () => { paused = !paused; playOrPause(); },
  Escape: () => openPanel(false), "?": () => ask($("help")),
};
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const inControl = event.target.closest("button, a, input");
  if (inControl && (event.key === " " || event.key === "Enter")) return;
  if (event.target.closest(".panel") && /^(Arrow|Page)/.test(event.key)) return;
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

// ---------------------------------------------------------------- questions

/** Open a dialog and give what it was closed with. Nothing plays behind it. */
function ask(dialog) {
  return new Promise((done) => {
    dialog.returnValue = "";
    dialog.addEventListener("close", () => { playOrPause(); done(dialog.returnValue); }, { once: true });
    dialog.showModal();
    playOrPause();
  });
}

async function askWhatNot() {
  const card = cards[active];
  if (!card) return;
  const choices = [["this clip", "item"], [`anything by @${card.clip.creator}`, "creator"],
    ...card.clip.tags.map((tag) => [`anything tagged ${tag}`, `tag:${tag}`]), [`the sound “${card.clip.sound}”`, "sound"]];
  $("no-choices").replaceChildren(...choices.map(([text, value]) => panel.el("button", { class: "button", value, text })));
  const answer = await ask($("not-interested"));
  if (!answer || cards[active] !== card) return;
  card.said = { ...card.said, liked: false, refused: answer === "item" ? [] : [answer] };
  await fresh(card);
  toast("Understood. It holds from the next feed on.");
}

/** After a refusal nothing that was ranked before it is shown any more: the next feed knows of it. */
async function fresh(card) {
  edition++;
  loading = null;
  for (const below of cards.splice(active + 1)) below.element.remove();
  const { event_id } = card.feed, { refused } = card.said;
  // What is final is learned, but a refusal is obeyed whenever it comes.
  const late = { event_id, feedback_id: `${event_id}-${card.slot}-no`, items: [{ id: card.clip.id, signals: { not_interested: 1 }, ...(refused.length && { about: refused }) }] };
  try { await (card.told ? api.feedback(late) : leave(card)); } catch (error) { trouble(error); }
  await more();
  if (cards[active] === card) step(1);
}

async function askWho() {
  const people = viewers.all();
  $("people").replaceChildren(...people.map((one) => {
    const button = panel.el("button", { value: one.id, ...(one.id === viewer?.id && { "aria-current": "true" }) }, viewers.face(one),
      panel.el("span", {}, one.name, panel.el("small", { text: `${one.shown.length} clips${one.interests.length ? `; picked ${one.interests.join(", ")}` : ""}` })));
    return panel.el("li", {}, button);
  }));
  $("forget").hidden = !viewer;
  const answer = await ask($("viewers"));
  if (answer === "new") await welcome({ cancel: true });
  else if (answer === "forget") await forgetMe();
  else if (people.some((one) => one.id === answer) && answer !== viewer?.id) watch(people.find((one) => one.id === answer));
}

async function forgetMe() {
  const gone = viewer, card = cards[active];
  // Nothing more is said of them.
  if (card) card.told = true;
  stop();
  viewers.remove(gone.id);
  try {
    const reply = await api.forget(gone.id);
    toast(`Forgotten: ${reply.decisions} feeds, ${reply.feedback} reports of what you did, and what was believed of you.`, 5000);
  } catch (error) { trouble(error); }
  await welcome({ cancel: false });
}

/** Begin the demo if need be, and sign somebody up. */
async function welcome({ cancel }) {
  const asks = page.asks === "yes";
  $("consent").hidden = !asks;
  $("start").disabled = asks;
  $("cancel-new").hidden = !cancel;
  $("new-name").value = "";
  for (const box of $("interests").querySelectorAll("input")) box.checked = false;
  const began = asks ? null : begin();
  if (await ask($("welcome")) !== "start") {
    if (!cancel) return welcome({ cancel });
    return null;
  }
  const interests = [...$("interests").querySelectorAll("input:checked")].map((box) => box.value);
  await began;
  const created = viewers.create($("new-name").value, interests);
  await api.putUser(created.id, interests).catch(trouble);
  return watch(created);
}

$("anyway").addEventListener("change", async () => {
  if (!$("anyway").checked) return;
  $("anyway").disabled = true;
  await begin(true);
});

/** Clips into the catalogue and the invented viewers first, a step at a time. */
let known = false;

async function begin(anyway = false) {
  $("start").disabled = true;
  $("beginning").hidden = known;
  $("beginning-say").textContent = "One moment …";
  try {
    for (;;) {
      const reply = await api.begin(anyway);
      $("beginning").hidden = reply.state === "ready";
      $("beginning-say").textContent = `The invented viewers are swiping: round ${reply.played} of ${reply.rounds}.`;
      $("beginning-bar").style.setProperty("--done", reply.played / reply.rounds);
      if (reply.state === "ready") break;
      // What a round taught is learned before the next one is ranked.
      await new Promise((done) => { setTimeout(done, ROUND_MS); });
    }
    page.asks = "no";
    known = true;
    $("consent").hidden = true;
    $("start").disabled = false;
  } catch (error) {
    $("beginning").hidden = false;
    $("beginning-say").textContent = error.message;
  }
}

// ---------------------------------------------------------------- who watches

function stop() {
  const card = cards[active];
  if (card && viewer) leave(card)?.catch(() => {});
  edition++;
  lessons++;
  loading = null;
  for (const one of cards) one.element.remove();
  cards = [];
  active = -1;
  viewer = null;
  $("learned").replaceChildren(panel.el("p", { class: "say", text: "Nothing yet: swipe on." }));
}

function watch(next) {
  stop();
  viewer = next;
  viewers.choose(next.id);
  $("viewer-name").textContent = next.name;
  viewers.face(next, $("viewer-face"));
  $("feed").scrollTo({ top: 0, behavior: "instant" });
  panel.course(next.shown, clipsById, (tag) => HUES[tag] ?? 0);
  refresh();
  $("feed").focus({ preventScroll: true });
  return more();
}

async function main() {
  const all = await api.clips();
  tags = all.tags;
  clipsById = new Map(all.clips.map((clip) => [clip.id, clip]));
  for (const chip of document.querySelectorAll("[data-sign]")) chip.prepend(signCanvas(chip.dataset.sign, 26));
  const last = viewers.current();
  if (last && page.asks === "no") { await begin(); await watch(last); } else await welcome({ cancel: false });
}

main().catch(trouble);
