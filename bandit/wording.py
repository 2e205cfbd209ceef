"""Numbers as people read them: what pages, reports and the health of the loop say."""

from __future__ import annotations

from math import floor, isfinite, log10
from typing import Final

MINUS: Final = "\N{MINUS SIGN}"
MOST_PLACES: Final = 7


def places(width: float) -> int:
    """Decimal places that say something of a value known to within ``width``: two digits of it.

    >>> places(0.013), places(4.2), places(260.0)
    (3, 1, 0)
    """
    if not isfinite(width) or width <= 0:
        return 4
    return min(max(1 - floor(log10(width)), 0), MOST_PLACES)


def number(value: float, digits: int = 4) -> str:
    """With a true minus sign, and no minus before zero.

    >>> number(-0.00004, 3), number(1234.5, 1)
    ('0.000', '1,234.5')
    """
    if not isfinite(value):
        return "–" if value != value else f"{MINUS if value < 0 else ''}∞"
    text = f"{abs(value):,.{digits}f}"
    return MINUS + text if value < 0 and float(text.replace(",", "")) else text


def signed(value: float, digits: int = 4) -> str:
    """With its sign, unless it is zero as written."""
    text = number(value, digits)
    if not isfinite(value):
        return text
    return text if value <= 0 or not float(text.replace(",", "")) else "+" + text


def compact(value: float) -> str:
    """Three digits, for weights and effective sizes.

    >>> compact(21739.1), compact(2.08), compact(0.0123)
    ('21,739', '2.08', '0.0123')
    """
    if value == 0 or not isfinite(value):
        return "0" if value == 0 else "unbounded"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = max(2 - floor(log10(abs(value))), 0)
    text = f"{value:.{min(digits, MOST_PLACES)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def about(n: int) -> str:
    """Two digits: more would pretend.

    >>> about(41234), about(87)
    ('41,000', '87')
    """
    return f"{n:,}" if n < 100 else f"{round(n, 2 - len(str(n))):,}"


def percent(share: float, digits: int | None = None) -> str:
    """Without a sign.

    >>> percent(0.1234), percent(0.004), percent(3.2)
    ('12 %', '0.4 %', '320 %')
    """
    value = abs(100 * share)
    if digits is None:
        digits = 0 if value >= 10 else 1
    return f"{value:,.{digits}f} %"


def lasting(seconds: float) -> str:
    """A time that has passed, in its largest unit.

    >>> lasting(0.4), lasting(90), lasting(7_300), lasting(200_000)
    ('0 s', '2 min', '2 h', '2 days')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3_600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.0f} h" if seconds < 2 * 86_400 else f"{seconds / 86_400:.0f} days"
