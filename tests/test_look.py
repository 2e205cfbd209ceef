"""The common look of pages: served for ever, readable in light and dark, with nothing from elsewhere."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bandit.web.pages import STYLESHEET, look
from replay.report.page import STYLES
from tests.conftest import Api
from tests.gallery import sheet


def palettes() -> list[dict[str, str]]:
    """Colours by name, in light and in dark."""
    light, dark = STYLESHEET.read_text("utf-8").split("@media (prefers-color-scheme: dark)")
    found = [dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", part)) for part in (light, dark)]
    assert found[0].keys() == found[1].keys()
    return found


def contrast(one: str, other: str) -> float:
    """Of two colours, from 1 to 21. Source: WCAG 2.2."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


TEXT = ["ink", "soft", "accent", "better", "worse", "undecided", "refused", "ok", "warning", "danger"]


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
@pytest.mark.parametrize("name", TEXT)
def test_text_can_be_read_on_every_ground(palette: dict[str, str], name: str) -> None:
    for ground in ("paper", "card", "raised") if name in ("ink", "soft") else ("paper", "card"):
        assert contrast(palette[name], palette[ground]) >= 4.5, ground


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
def test_marks_and_buttons_can_be_told_from_their_ground(palette: dict[str, str]) -> None:
    for name in [f"series-{i}" for i in range(1, 7)]:
        assert contrast(palette[name], palette["card"]) >= 3, name
    assert contrast(palette["on-accent"], palette["accent"]) >= 4.5
    assert contrast(palette["paper"], palette["ink"]) >= 4.5


def test_every_colour_is_used() -> None:
    css = "".join(path.read_text("utf-8") for path in STYLES)
    assert [name for name in palettes()[0] if f"var(--{name})" not in css] == []


def test_every_part_can_be_drawn() -> None:
    assert "A note stands beside" in sheet()


def test_files_are_kept_for_ever_under_the_name_of_their_content(api: Api) -> None:
    url = look.url_of("look.css")
    reply = api.call("GET", url)
    assert (reply.status, reply.content) == (200, STYLESHEET.read_bytes())
    assert reply.headers["Content-Type"] == "text/css; charset=utf-8"
    assert "immutable" in reply.headers["Cache-Control"]
    assert api.call("GET", look.url_of("icon.svg")).headers["Content-Type"] == "image/svg+xml"


@pytest.mark.parametrize("name", ["look.css", "000000000000/look.css", "{edition}/../look.py", "{edition}/nothing.css"])
def test_nothing_else_is_served(api: Api, name: str) -> None:
    reply: Any = api.call("GET", "/static/" + name.format(edition=look.edition()))
    assert (reply.status, reply.body["error"]["code"]) == (404, "not_found")


def test_a_page_may_run_and_load_nothing_but_its_own() -> None:
    assert "unsafe" not in look.POLICY
    assert not re.search(r"https?:", look.POLICY + STYLESHEET.read_text("utf-8"))
