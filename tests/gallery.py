"""Everything that pages are made of, on one sheet to look at: ``python -m tests.gallery FILE.html``."""

from __future__ import annotations

import sys
from pathlib import Path

from bandit.web.pages import STYLESHEET, TEMPLATES, environment_of

SHEET = """{% import "parts.html" as parts %}
<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Gallery</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{{ css|safe }}</style></head><body>
<header class="wide masthead"><p class="brand"><a href="#"><b>feed-bandit</b></a></p>
<nav class="nav" aria-label="Pages"><a href="#" aria-current="page">Dashboard</a><a href="#">Feed</a></nav></header>
<main>
{{ parts.answer("It is learning, and earns 12 % more than the order it was given.",
   "Between 9 and 15 %, of 12,408 feeds. 98 of 100 rankings were joined with what viewers did.", "better") }}
<section class="wide"><h2>Figures</h2><p class="lead">One figure, its name, and what is to be said of it.</p>
<dl class="facts">{{ parts.fact("Join rate", "98.2 %", "of 12,408 decisions") }}{{ parts.fact("Lag", "0.4 s") }}
{{ parts.fact("Exploration", "10.1 %", "of a budget of 10 %") }}{{ parts.fact("Model age", "3 s") }}</dl></section>
<section class="wide"><h2>Tags and buttons</h2>
<p class="tags">{{ parts.tag("plain") }}
{% for mood in ["better", "worse", "undecided", "refused", "ok", "warning"] %}
{{ parts.tag(mood, mood) }}{% endfor %}</p>
<p class="buttons"><button class="button main">Save</button><button class="button">Look</button>
<button class="button danger">Erase</button><button class="button" disabled>Not now</button></p></section>
<section class="wide"><h2>To fill in</h2><div class="cards"><form class="card">
<p class="field"><label for="key">Key</label><input class="input" id="key" placeholder="fb_…">
<small>Made by a command.</small></p>
<p class="tags">{% for name in ["cats", "space", "waves"] %}<label class="choice"><input type="checkbox"{{ " checked" if
 loop.first }}><span>{{ name }}</span></label>{% endfor %}</p></form>
<p class="empty">Nothing here yet.</p></div></section>
<section class="wide"><h2>Findings</h2><ul class="checks">
{{ parts.check("ok", "Propensities", "Mean of 1/p is 1.002 where 1 is expected.") }}
{{ parts.check("warning", "Evidence", "Nothing proves that anything was seen.", "Send watch_s for all that is seen.") }}
{{ parts.check("refusal", "Value of random", "The log is worth 3 of its events.") }}</ul>
<p class="note">A note stands beside a line of its own.</p></section>
<section class="wide"><h2>Charts</h2><figure><figcaption><b>Six colours</b> told apart by all eyes</figcaption>
<svg class="chart" viewBox="0 0 600 120" width="100%" height="120" role="img" aria-label="Colours">
{% for i in range(1, 7) %}<g class="series-{{ i }}">
<rect class="band" x="{{ i * 90 - 60 }}" y="30" width="70" height="60"/>
<path class="stroke" d="M{{ i * 90 - 60 }},80 q20,-60 35,-20 t35,-20"/>
<circle class="fill" cx="{{ i * 90 + 10 }}" cy="40" r="5"/>
<text class="tick" x="{{ i * 90 - 60 }}" y="110">series {{ i }}</text></g>{% endfor %}</svg></figure>
{% for i in range(1, 7) %}{{ parts.bar(i / 7, "share " ~ i, i) }}<br>{% endfor %}
<ul class="key"><li>a key</li></ul>
{{ parts.table("A table", ["item", "shown", "reward", "why"], [["v1", "1,024", "0.61", "popular"],
   ["v2", "12", "0.4", "new"]], text=[3]) }}</section>
</main></body></html>
"""


def sheet() -> str:
    """The sheet, in need of nothing else."""
    return environment_of(TEMPLATES).from_string(SHEET).render(css=STYLESHEET.read_text("utf-8"))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(sheet(), "utf-8")
