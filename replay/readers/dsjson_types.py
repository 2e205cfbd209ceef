"""The types of dsjson lines, as Personalizer, learning-loop and VW's own tools write them.

A line is a decision (CB: ``_label_*``, ``a``, ``p``, ``c``; CCB: ``c`` with ``_slots``, and ``_outcomes``), or an
outcome that was not joined to its decision (``RewardValue`` or ``v``), or a note of the service's (a list). What is not
named here is skipped.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct, field

NOTHING = Raw(b"")


class Context(Struct, gc=False):
    """What ``c`` holds of the candidates."""

    multi: list[Raw] = field(name="_multi", default_factory=list)
    slots: list[Raw] | None = field(name="_slots", default=None)


class SlotOutcome(Struct, gc=False):
    """What became of a slot of a CCB decision. Actions count from 0; VW takes a single one without a list, too."""

    cost: float | None = field(name="_label_cost", default=None)
    original: float | None = field(name="_original_label_cost", default=None)
    a: list[int] | int | None = field(name="_a", default=None)
    p: list[float] | float | None = field(name="_p", default=None)
    o: Raw = field(name="_o", default=NOTHING)
    id: str | None = field(name="_id", default=None)


class Slot(Struct, gc=False):
    """What ``_slots`` says of a slot besides its features."""

    inc: list[int] | None = field(name="_inc", default=None)


class State(Struct, gc=False):
    """``m`` is the model that decided."""

    m: str | None = None


class Extra(Struct, gc=False):
    """What a decision says that dsjson has no place for; written by ``convert``."""

    seen: list[int] | None = None
    columns: dict[str, list[float | None]] = {}
    fields: dict[str, str | float | None] = {}
    contexts: list[float] | None = None


class Line(Struct, gc=False):
    """Any line, its context as far as the candidates."""

    cost: float | None = field(name="_label_cost", default=None)
    p_label: float | None = field(name="_label_probability", default=None)
    action: int | None = field(name="_label_Action", default=None)
    index: int | None = field(name="_labelIndex", default=None)
    original: float | None = field(name="_original_label_cost", default=None)
    skip: bool | None = field(name="_skipLearn", default=None)
    deferred: bool | None = field(name="_deferred", default=None)
    outcomes: list[SlotOutcome] | None = field(name="_outcomes", default=None)
    viewer: str | None = field(name="_viewer", default=None)
    extra: Extra | None = field(name="_replay", default=None)
    event: str | None = field(name="EventId", default=None)
    stamp: str | None = field(name="Timestamp", default=None)
    state: State | None = field(name="VWState", default=None)
    pdrop: float | None = None
    waits: bool | None = field(name="DeferredAction", default=None)
    a: Raw = NOTHING
    p: Raw = NOTHING
    o: Raw = NOTHING
    c: Context | None = None


class Whole(Struct, gc=False):
    """A line's context, all of it."""

    c: Raw = NOTHING


class Outcome(Struct, gc=False):
    """An outcome beside its decision, in the forms that there are."""

    event: str | None = field(name="EventId", default=None)
    reward: float | None = field(name="RewardValue", default=None)
    v: Any = None
    index: str | int | None = field(name="Index", default=None)
    taken: bool | None = field(name="ActionTaken", default=None)
    waits: bool | None = field(name="DeferredAction", default=None)
    c: Raw = NOTHING
    a: Raw = NOTHING
    outcomes: Raw = field(name="_outcomes", default=NOTHING)

    def is_one(self) -> bool:
        """Rather than a decision."""
        return not (self.c or self.a or self.outcomes) and self.event is not None

    def value(self) -> float | None:
        """Its reward; None if it only says that the action was taken, or is no number."""
        if self.reward is not None and not (self.reward == 0 and self.activates()):
            return self.reward
        return float(self.v) if isinstance(self.v, int | float) and not isinstance(self.v, bool) else None

    def activates(self) -> bool:
        """It says that a deferred action was taken after all."""
        return self.taken is True or self.waits is False


lines_decoder = msgspec.json.Decoder(Line)
whole_decoder = msgspec.json.Decoder(Whole)
outcome_decoder = msgspec.json.Decoder(Outcome)
slot_decoder = msgspec.json.Decoder(Slot)
members_decoder = msgspec.json.Decoder(dict[str, Raw])
floats_decoder = msgspec.json.Decoder(list[float])
ints_decoder = msgspec.json.Decoder(list[int])
