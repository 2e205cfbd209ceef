// Keeps the dashboard fresh: asks for the page again, and puts in what changed. Without it the page is the same, once.

const EVERY_MS = 5000;
const parts = () => [...document.querySelectorAll("[data-live]")];
const say = document.getElementById("refreshing");
const text = document.createElement("span");
const pause = document.createElement("button");
let paused = false;
let asking = false;

// Where somebody is at work, nothing is taken from under their hands.
const inUse = (part) => part.contains(document.activeElement) || part.querySelector(".back[open]") !== null;

// As the service sent them: what scripts and people changed since is no news.
const sent = new Map(parts().map((part) => [part.dataset.live, part.innerHTML]));

function put(part, fresh) {
  if (sent.get(part.dataset.live) === fresh.innerHTML) return;
  sent.set(part.dataset.live, fresh.innerHTML);
  const open = [...part.querySelectorAll("details[open][id]")].map((one) => one.id);
  const scrolled = [...part.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
  for (const id of open) fresh.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
  part.replaceChildren(...fresh.childNodes);
  part.querySelectorAll(".scroll").forEach((one, place) => { one.scrollLeft = scrolled[place] ?? 0; });
}

async function refresh() {
  if (paused || asking || document.hidden) return;
  asking = true;
  try {
    const url = new URL(location.href);
    url.searchParams.delete("notice");
    const reply = await fetch(url, { headers: { Accept: "text/html" } });
    if (reply.redirected) throw new Error("you are signed out; load the page again");
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    if (page.querySelector("[data-live]") === null) throw new Error(`the service answers ${reply.status}`);
    const fresh = new Map([...page.querySelectorAll("[data-live]")].map((one) => [one.dataset.live, one]));
    for (const part of parts()) {
      const other = fresh.get(part.dataset.live);
      if (other && !inUse(part)) put(part, other);
    }
    document.title = page.title;
    text.textContent = "Refreshed every 5 seconds.";
  } catch (error) {
    text.textContent = `Not refreshed: ${error instanceof TypeError ? "the service does not answer" : error.message}.`;
  } finally {
    asking = false;
  }
}

pause.type = "button";
pause.className = "button";
pause.textContent = "Pause";
pause.addEventListener("click", () => {
  paused = !paused;
  pause.textContent = paused ? "Go on" : "Pause";
  text.textContent = paused ? "Paused." : "Refreshed every 5 seconds.";
  refresh();
});
text.textContent = "Refreshed every 5 seconds.";
say.append(text, pause);
setInterval(refresh, EVERY_MS);
document.addEventListener("visibilitychange", refresh);

// Browsers have a clipboard for this machine and for https alone.
for (const block of navigator.clipboard ? document.querySelectorAll(".copy") : []) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(block.querySelector("code").textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  block.append(button);
}
