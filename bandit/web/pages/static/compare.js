// Three invented viewers use the feed side by side. What they do is invented; what they are shown is not.

import * as api from "./api.js";
import * as viewers from "./viewers.js";
import { el } from "./panel.js";
import { painter, signCanvas } from "./scenes.js";

const $ = (id) => document.getElementById(id);
const page = document.body.dataset;
const SLOTS = Number(page.slots);
const SIGNALS = new Set(page.signals.split(" "));
const SVG = "http://www.w3.org/2000/svg";
const FEEDS = 8;
/** Time for a lesson to reach the model that ranks. */
const LEARN_MS = 900;
const PEOPLE = [["Ines", ["cats", "knitting", "garden"]], ["Theo", ["football", "city", "trains"]], ["Mika", ["space", "robots", "fireworks"]]];

let clipsById = new Map();
let columns = [];
let running = false;
const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

class Column {
  constructor([name, likes]) {
    this.id = api.newId("demo-viewer-");
    this.name = name;
    this.likes = likes;
    this.feeds = [];
    this.list = el("ol", { class: "feeds", reversed: "" });
    this.told = el("p", {}, el("span", { text: "No feed yet" }), el("b"));
    this.chart = document.createElementNS(SVG, "svg");
    this.element = el("article", { class: "viewer card", "aria-label": name, "data-viewer": this.id },
      el("header", {}, viewers.face(this), el("div", {}, el("h2", { text: name }), el("small", { text: "likes, and has not said so:" }))),
      el("p", { class: "likes" }, ...likes.map((tag) => el("span", { class: "tag" }, signCanvas(tag, 20), tag))),
      el("div", { class: "share" }, this.told, this.chart), this.list);
    this.draw();
  }

  does(clip) {
    const likes = clip.tags.some((tag) => this.likes.includes(tag));
    const all = likes ? { watch_s: clip.length_s, like: 1 } : { watch_s: 1.2, skip: 1 };
    return { likes, signals: Object.fromEntries(Object.entries(all).filter(([name]) => SIGNALS.has(name))) };
  }

  async swipe() {
    const feed = await api.rankFeed({ viewer: this.id, ids: clipsById.keys(), slots: SLOTS, explain: false });
    await api.activate(feed.event_id);
    const shown = feed.ranking.map(({ id }) => ({ clip: clipsById.get(id), ...this.does(clipsById.get(id)) }));
    await api.feedback({ event_id: feed.event_id, feedback_id: `${feed.event_id}-all`,
      items: shown.map(({ clip, signals }) => ({ id: clip.id, signals, seen: true, final: true })) });
    this.feeds.push({ event: feed.event_id, shown, share: shown.filter((one) => one.likes).length / shown.length });
    this.list.prepend(this.row(this.feeds.at(-1), this.feeds.length));
    this.draw();
  }

  row({ event, shown, share }, number) {
    const strip = el("div", { class: "strip" }, ...shown.map(({ clip, likes }) => {
      const canvas = el("canvas", { width: 108, height: 180 });
      painter(clip)(canvas.getContext("2d"), 3.4, 108, 180);
      return el("span", { class: `thumb ${likes ? "liked" : "left"}`, role: "img", title: clip.caption, "data-id": clip.id,
        "aria-label": `${clip.tags.join(", ")}${likes ? ", watched" : ", skipped"}` }, canvas);
    }));
    return el("li", { "data-event": event, "data-share": share }, el("span", {}, el("a", { href: `/events/${encodeURIComponent(event)}`, text: number, "aria-label": `Feed ${number}, its story` })), strip);
  }

  draw() {
    const n = this.feeds.length, last = this.feeds.at(-1);
    this.told.firstChild.textContent = n ? `Feed ${n}: ${Math.round(last.share * SLOTS)} of ${SLOTS} liked` : "No feed yet";
    const width = Math.max(100, n * (100 / FEEDS));
    const mark = (name, attributes) => {
      const element = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      return element;
    };
    this.chart.setAttribute("viewBox", `0 0 ${width} 41`);
    this.chart.setAttribute("preserveAspectRatio", "none");
    this.chart.setAttribute("width", "100%");
    this.chart.setAttribute("class", "series-1");
    this.chart.setAttribute("role", "img");
    this.chart.setAttribute("aria-label", `Share of liked clips, feed by feed: ${this.feeds.map(({ share }) => `${Math.round(share * 100)} %`).join(", ")}`);
    this.chart.replaceChildren(mark("path", { class: "base", d: `M0 40.5H${width}` }), ...this.feeds.map(({ share }, i) => {
      const height = Math.max(1.5, share * 40);
      return mark("rect", { class: "fill", x: i * (100 / FEEDS) + 1, width: 100 / FEEDS - 2, y: 40 - height, height, rx: 1.5 });
    }));
  }
}

/** How different the feeds are by now. */
function differ() {
  const latest = columns.map((column) => new Set(column.feeds.slice(-2).flatMap(({ shown }) => shown.map(({ clip }) => clip.id))));
  const most = latest[0].size;
  if (!most) return "";
  const shared = [[0, 1], [0, 2], [1, 2]].map(([a, b]) => [...latest[a]].filter((id) => latest[b].has(id)).length);
  const mean = (pick) => columns.reduce((sum, column) => sum + column.feeds.at(pick).share, 0) / columns.length;
  const common = Math.max(...shared);
  return `Liked: ${Math.round(mean(0) * 100)} % of the first feeds, ${Math.round(mean(-1) * 100)} % of the last. ` +
    `Of their last ${most} clips any two of them have ${common ? `at most ${common}` : "none"} in common.`;
}

async function round() {
  await Promise.all(columns.map((column) => column.swipe()));
  $("say").textContent = differ();
}

function enable(yes) { for (const id of ["run", "once", "anew"]) $(id).disabled = !yes; }

async function work(rounds) {
  if (running) return;
  running = true;
  enable(false);
  try {
    for (let i = 0; i < rounds; i++) { await round(); if (i + 1 < rounds) await pause(LEARN_MS); }
  } catch (error) { $("say").textContent = error.message; }
  running = false;
  enable(true);
}

function anew() {
  columns = PEOPLE.map((one) => new Column(one));
  $("columns").replaceChildren(...columns.map((column) => column.element));
  $("say").textContent = `${clipsById.size} clips, and nothing is known of any of the three.`;
}

$("run").addEventListener("click", () => work(FEEDS));
$("once").addEventListener("click", () => work(1));
$("anew").addEventListener("click", anew);

async function main() {
  if (page.asks === "yes") { $("say").textContent = "Others use this service already: begin the demo on its own page first."; return; }
  for (;;) {
    const reply = await api.begin(false);
    if (reply.state === "ready") break;
    $("say").textContent = `Others swipe first, so that the service knows what a taste is: round ${reply.played} of ${reply.rounds}.`;
    await pause(LEARN_MS);
  }
  const all = await api.clips();
  clipsById = new Map(all.clips.map((clip) => [clip.id, clip]));
  anew();
  enable(true);
}

main().catch((error) => { $("say").textContent = error.message; });
