// Pictures of the demo's clips, where a page tells of them.

import { ask } from "./api.js";
import { painter } from "./scenes.js";

const all = await ask("GET", document.body.dataset.clips);
const known = new Map(all.clips.map((clip) => [clip.id, clip]));
for (const canvas of document.querySelectorAll("canvas.still")) {
  const clip = known.get(canvas.dataset.id);
  if (clip) painter(clip)(canvas.getContext("2d"), 3.4, canvas.width, canvas.height);
  else canvas.remove();
}
