// The side panel: why this clip came, what the last swipe taught, what is believed of the viewer. Every number is one
// that the API gave; elements keep it whole in data-value, and show it short.

import { language, percent, reasons, signed } from "./words.js";
import { signCanvas } from "./scenes.js";

const $ = (id) => document.getElementById(id);
const MOST_REASONS = 4;
const COURSE = 60;

export function el(name, { text, ...attributes } = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

function both(value, most, lately) {
  const bar = el("span", { class: `both${value < 0 ? " minus" : ""}`, "aria-hidden": "true" }, el("i"));
  bar.style.setProperty("--v", Math.max(-1, Math.min(1, value / most)));
  if (lately !== undefined) {
    bar.append(el("b"));
    bar.style.setProperty("--lately", Math.max(-1, Math.min(1, lately / most)));
  }
  return bar;
}

function pair(name, value, exact) {
  const told = el("dd", { text: value });
  if (exact !== undefined) told.dataset.value = exact;
  return el("div", {}, el("dt", { text: name }), told);
}

/** Why a clip stands where it stands. */
export function why({ clip, feed, slot }) {
  const placed = feed.ranking[slot], told = feed.explanation?.find((one) => one.id === clip.id);
  const able = Math.max(1, feed.n - (feed.kept_out?.length ?? 0) - slot), times = placed.propensity * able;
  const odds = times >= 1.5 ? `${times < 10 ? times.toFixed(1) : times.toFixed(0)} times as likely as by mere chance`
    : times > 0.75 ? "about as likely as by mere chance" : "less likely than by mere chance";
  $("why-say").textContent = placed.score === null || feed.fallback
    ? "Nothing has been learned yet that could rank it: it was drawn from the order it came in."
    : told?.exploratory
      ? `A wild card: from outside the best, to find out whether you like it. It had a chance of ${percent(placed.propensity)}.`
      : `Place ${slot + 1} of its feed was drawn among ${able} clips. This one had a chance of ${percent(placed.propensity)}: ${odds}.`;
  const parts = told ? reasons(told.features, clip).slice(0, MOST_REASONS) : [];
  const most = Math.max(0.3, ...parts.map((one) => Math.abs(one.value)));
  $("reasons").replaceChildren(...parts.map(({ text, value }) => el("li", { class: "reason" },
    el("span", { text }), both(value, most), el("span", { class: "figure", text: signed(value), "data-value": value }))));
  $("moved").replaceChildren(...(told?.rules ?? []).map((rule) => el("li", { text: rule })));
  $("why-facts").replaceChildren(
    pair("chance", percent(placed.propensity), placed.propensity),
    pair("expected reward", placed.score === null ? "not known" : signed(placed.score), placed.score ?? ""),
    pair("kept out by rules", String(feed.kept_out?.length ?? 0), feed.kept_out?.length ?? 0),
  );
  $("why-model").textContent = `${told?.exploratory ? "Exploration" : `Drawn by ${feed.policy}`}, with ${feed.model_version ? `model ${feed.model_version.slice(0, 8)}` : "no model yet"} and config ${feed.config_version}.`;
  $("story").href = `/events/${encodeURIComponent(feed.event_id)}`;
}

const GROUPS = [["tag", "Tags", 12], ["creator", "Creators", 4], ["language", "Languages", 4], ["length_s", "Lengths", 4]];

function named(attribute, value) {
  const name = el("span", { class: "name", title: value });
  if (attribute === "tag") name.append(signCanvas(value, 22));
  name.append(attribute === "language" ? language(value) : value);
  return name;
}

/** What the service believes of the viewer. Rows stay where they can, so that bars move. */
export function believed(user, tags) {
  const tastes = user?.tastes ?? [];
  const best = tastes.filter((one) => one.attribute === "tag" && one.long > 0.02).sort((a, b) => b.long - a.long);
  const picked = user?.interests ?? [];
  $("believed-say").textContent = !user?.seen_slots
    ? picked.length ? `You picked ${picked.join(", ")}. Nothing is known yet of what you do.` : "Nothing yet: you are new."
    : best.length ? `After ${user.seen_slots} clips: ${best.slice(0, 3).map((one) => one.value).join(", ")} more than the rest.`
      : `After ${user.seen_slots} clips nothing stands out.`;
  $("believed-say").dataset.value = user?.seen_slots ?? 0;
  const box = $("believed"), most = Math.max(0.5, ...tastes.flatMap((one) => [Math.abs(one.long), Math.abs(one.lately)]));
  for (const [attribute, heading, many] of GROUPS) {
    let known = tastes.filter((one) => one.attribute === attribute).sort((a, b) => b.long - a.long);
    if (attribute === "tag") known = known.filter((one) => tags.includes(one.value));
    if (known.length > many) known = [...known.slice(0, many / 2), ...known.slice(-many / 2)];
    let group = box.querySelector(`[data-group="${attribute}"]`);
    if (!group) { group = el("div", { class: "bars", "data-group": attribute }, el("h3", { text: heading })); box.append(group); }
    group.hidden = known.length === 0;
    const before = new Map([...group.querySelectorAll(".row")].map((row) => [row.dataset.name, row]));
    for (const taste of known) {
      const row = before.get(taste.value) ?? el("div", { class: "row", "data-name": taste.value }, named(attribute, taste.value),
        both(0, 1, 0), el("span", { class: "figure" }));
      before.delete(taste.value);
      const bar = row.querySelector(".both"), figure = row.querySelector(".figure");
      figure.textContent = signed(taste.long);
      figure.dataset.value = taste.long;
      figure.dataset.lately = taste.lately;
      group.append(row);
      requestAnimationFrame(() => {
        bar.classList.toggle("minus", taste.long < 0);
        bar.style.setProperty("--v", Math.max(-1, Math.min(1, taste.long / most)));
        bar.style.setProperty("--lately", Math.max(-1, Math.min(1, taste.lately / most)));
      });
    }
    for (const row of before.values()) row.remove();
  }
}

/** What became of a swipe: `slot` as /v1/events tells it, null while it is not learned yet. */
export function learned({ clip, did, slot, eventId }) {
  const link = el("a", { href: `/events/${encodeURIComponent(eventId)}`, text: "the whole story" });
  const head = el("p", { class: "say" }, el("b", { text: `“${clip.caption}” ` }), did);
  if (slot === null) {
    $("learned").replaceChildren(el("div", { class: "learned" },
      el("p", { class: "reward waiting", text: "…" }), head, el("p", { class: "fine", text: "on its way into the model" })));
    return;
  }
  const taught = slot.status === "learned";
  const reward = el("p", { class: "reward", text: taught ? signed(slot.reward) : slot.status.replace("_", " ") });
  if (taught) reward.dataset.value = slot.reward;
  $("learned").replaceChildren(el("div", { class: "learned" }, reward, head,
    el("p", { class: "fine" }, taught ? `learned for ${clip.tags.join(", ")}${slot.model ? `, and in model ${slot.model.slice(0, 8)}` : ""}: ` : "not learned: ", link)));
}

/** The clips so far, and whether staying with them has become more common. */
export function course(shown, clipsById, hueOf) {
  const last = shown.slice(-COURSE);
  $("course").replaceChildren(...last.map(([id, stayed], i) => {
    const tag = clipsById.get(id)?.tags[0] ?? "?";
    const mark = el("li", { class: `${stayed ? "stayed" : ""}${i === last.length - 1 ? " now" : ""}`, title: `${tag}${stayed ? ", you stayed" : ""}` },
      el("span", { class: "unseen", text: `${tag}${stayed ? ", stayed" : ""}` }));
    mark.style.setProperty("--tag", hueOf(tag));
    return mark;
  }));
  const stays = (part) => part.reduce((sum, [, stayed]) => sum + stayed, 0);
  $("course-say").textContent = shown.length === 0 ? "No clips yet."
    : shown.length < 20 ? `You stayed with ${stays(shown)} of ${shown.length} clips.`
      : `Of your first ten clips you stayed with ${stays(shown.slice(0, 10))}, of the last ten with ${stays(shown.slice(-10))}.`;
}
