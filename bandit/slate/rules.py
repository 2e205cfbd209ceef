"""Feed rules: what may stand where, each a small named thing, composed by the config.

The config lists rules from the strongest to the weakest. At every slot they hold together; where they would leave
nothing, the weakest give way first, for that slot alone, and the reply says which. A rule that gave way is broken by
whatever is drawn there, and one that did not is kept: no search, no second try, so that propensities stay exact.

Three things are no rules and never give way: what the caller excludes, what was withdrawn, and what the caller pins.
Neither do `not_interested` and `duplicates`, wherever they stand in the list.

`bandit.slate.binding` says what they mean for the candidates of one request; `bandit.slate.drawing` draws under them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

DAY_S: Final = 86_400.0

# ---------------------------------------------------------------- the rules


class NotInterested(Struct, forbid_unknown_fields=True, tag_field="rule", tag="not_interested"):
    """Nothing that the viewer is not interested in: the item, its creator, its sound, or one of its tags."""


class Duplicates(Struct, forbid_unknown_fields=True, tag_field="rule", tag="duplicates"):
    """No two of the same `group` in a feed."""


class Seen(Struct, forbid_unknown_fields=True, tag_field="rule", tag="seen"):
    """Nothing that the viewer was shown within `window_s` seconds before; items of one `group` are the same."""

    window_s: Annotated[float, Meta(gt=0, le=3_650 * DAY_S)] = 30 * DAY_S


class Cap(Struct, forbid_unknown_fields=True, tag_field="rule", tag="cap"):
    """At most so many of one creator, sound or tag in a feed."""

    of: Literal["creator", "sound", "tag"]
    most: Annotated[int, Meta(ge=1, le=100)]


class Spacing(Struct, forbid_unknown_fields=True, tag_field="rule", tag="spacing"):
    """No two by one creator, or with one sound, within `slots` slots of each other; 1: never in a row."""

    of: Literal["creator", "sound"]
    slots: Annotated[int, Meta(ge=1, le=100)] = 1


class Quota(Struct, forbid_unknown_fields=True, tag_field="rule", tag="quota"):
    """A share of the slots, chosen by lot, for items of one kind only.

    `new`: shown fewer than `shown_below` times. `off_interest`: with tags, and none of them one that the viewer
    likes; without a viewer whose taste is known there is no such quota.
    """

    of: Literal["new", "off_interest"]
    share: Annotated[float, Meta(gt=0, le=1)] = 0.1
    shown_below: Annotated[int, Meta(ge=1, le=1_000_000)] = 100


Rule = NotInterested | Duplicates | Seen | Cap | Spacing | Quota


def default_rules() -> list[Rule]:
    """What is shipped: nothing unwanted, twice or again; no creator and no sound twice in a row."""
    return [NotInterested(), Duplicates(), Seen(), Spacing(of="creator"), Spacing(of="sound")]


def name_of(rule: Rule) -> str:
    """What decisions and replies call it.

    >>> name_of(Seen()), name_of(Spacing(of="sound", slots=2))
    ('seen', 'spacing:sound')
    """
    tag = str(rule.__struct_config__.tag)
    return f"{tag}:{rule.of}" if isinstance(rule, Cap | Spacing | Quota) else tag


def rule_faults(rules: Sequence[Rule]) -> list[str]:
    """Why these rules do not go together; empty if they do.

    >>> rule_faults([Spacing(of="sound"), Spacing(of="sound", slots=3)])
    ['rules lists spacing:sound twice; keep one']
    """
    names = [name_of(rule) for rule in rules]
    faults = [f"rules lists {name} twice; keep one" for name in dict.fromkeys(names) if names.count(name) > 1]
    share = sum(rule.share for rule in rules if isinstance(rule, Quota))
    if share > 1.0:
        faults.append(f"the quotas in rules take {share:g} of all slots; together they may take 1")
    return faults
