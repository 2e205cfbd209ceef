"""Inline SVG as text. Widths are in percent and heights in pixels, so charts fit phones and writing keeps its size."""

from __future__ import annotations

from markupsafe import Markup, escape


def el(name: str, *children: object, **attributes: object) -> Markup:
    """An element; text is escaped, attributes that are None left out.

    >>> print(el("text", "a < b", x=pct(0.5), class_="tick"))
    <text x="50%" class="tick">a &lt; b</text>
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_value(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{inside}</{name}>")


def _value(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def pct(fraction: float) -> str:
    """
    >>> pct(0.12345)
    '12.345%'
    """
    return f"{100 * fraction:.3f}".rstrip("0").rstrip(".") + "%"


def picture(*children: object, height: int, title: str, description: str = "", class_: str = "chart") -> Markup:
    """A chart that screen readers can name; who sees it gets the title as a tooltip of nothing in particular.

    :param description: what it shows, for those who do not see it
    """
    label = f"{title}. {description}" if description else title
    return el("svg", *children, class_=class_, width="100%", height=height, role="img", aria_label=label)


def silent(*children: object, height: int, class_: str = "chart") -> Markup:
    """A picture of what the text beside it says already."""
    return el("svg", *children, class_=class_, width="100%", height=height, aria_hidden="true", focusable="false")


def told(text: str) -> Markup:
    """What is said when the mouse rests on the element that this is in."""
    return el("title", text)
