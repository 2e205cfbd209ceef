"""The slots of a CCB decision: what each could have shown, given the slots above."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np

from replay.events import F64, I64, U64, Candidates
from replay.readers.dsjson_outcomes import values_of
from replay.readers.dsjson_types import Context, Line, SlotOutcome, members_decoder, slot_decoder


class Slots(NamedTuple):
    """Columns of slots, (S,) but for ``counts`` (n,): how many an event has."""

    counts: I64
    item: U64
    chosen: I64
    propensity: F64
    reward: F64
    n_candidates: I64
    candidates: Candidates | None
    actions: list[bytes] | None


class FeedPart(NamedTuple):
    """A CCB decision, a list by slot each."""

    chosen: list[int]
    p: list[float]
    logged: list[list[float]]
    """Of every candidate, in their order; all NaN where only that of what was shown is known."""
    plain: list[list[bytes]]
    """Candidates as they stand in ``_multi``."""
    actions: list[list[bytes]]
    """Candidates with the features of their slot; the same as ``plain`` if those are not asked for."""
    labelled: list[float]
    """Rewards by the label; NaN if there is none."""
    names: list[tuple[str, ...]]
    """By which outcomes beside the decision may call the slot."""
    values: list[list[float]]
    """Outcomes joined to the slot."""


def slots_of(line: Line, context: Context, outcomes: str, *, with_features: bool) -> FeedPart:
    """
    :param outcomes: ``original`` takes the label before a baseline was subtracted
    :raises ValueError: the outcomes do not fit the candidates
    """
    multi = [bytes(action) for action in context.multi]
    slots = context.slots or []
    part = FeedPart([], [], [], [], [], [], [], [])
    shown: set[int] = set()
    for k, outcome in enumerate(line.outcomes or ()):
        ranked = [outcome.a] if isinstance(outcome.a, int) else outcome.a or []
        p = [outcome.p] if isinstance(outcome.p, int | float) else outcome.p or []
        if not ranked:
            raise ValueError(f"slot {k + 1} has no _a: nothing says what was shown")
        first = ranked[0]
        if not all(0 <= action < len(multi) for action in ranked):
            raise ValueError(f"slot {k + 1} has action {max(ranked)}; _multi has {len(multi)}, counted from 0")
        if first in shown:
            raise ValueError(f"slot {k + 1} shows action {first} again")
        slot = bytes(slots[k]) if k < len(slots) else b""
        could = _could(ranked, shown, len(multi), slot)
        part.chosen.append(could.index(first))
        part.p.append(p[0] if p else np.nan)
        known = dict(zip(ranked, p, strict=True)) if len(ranked) == len(p) else {}
        every = known.keys() >= set(could)
        part.logged.append([float(known[action]) if every else np.nan for action in could])
        plain = [multi[action] for action in could]
        part.plain.append(plain)
        part.actions.append(_with_slot(plain, slot) if with_features else plain)
        cost = outcome.cost
        if outcomes == "original" and outcome.original is not None:
            cost = outcome.original
        name = outcome.id if outcome.id is not None else _id_of(slot)
        part.labelled.append(np.nan if cost is None else 0.0 - cost)
        part.names.append((str(k),) if name in (None, str(k)) else (str(name), str(k)))
        part.values.append(_values(outcome, k))
        shown.add(first)
    if not part.chosen:
        raise ValueError("_outcomes is empty")
    return part


def _could(ranked: list[int], shown: set[int], n: int, slot: bytes) -> list[int]:
    """Actions that the slot could have shown, ascending: those of its ``_inc``, else all that ``_a`` lists; a logger
    that wrote down the shown one alone means all that were not shown above."""
    included = slot_decoder.decode(slot).inc if slot else None
    if included is not None:
        could = set(included) & set(range(n)) | {ranked[0]}
    elif len(ranked) > 1:
        could = set(ranked)
    else:
        could = set(range(n))
    return sorted(could - shown)


def _values(outcome: SlotOutcome, k: int) -> list[float]:
    try:
        return values_of(outcome.o)[0]
    except msgspec.DecodeError as error:
        raise ValueError(f"slot {k + 1}: _o is no JSON ({error})") from None


def _id_of(slot: bytes) -> str | None:
    if not slot:
        return None
    found = members_decoder.decode(slot).get("_id")
    if not found:
        return None
    name = msgspec.json.decode(found)
    return name if isinstance(name, str) else None


def _with_slot(actions: list[bytes], slot: bytes) -> list[bytes]:
    """The actions' texts with the slot's features among them: as VW's CCB learns them."""
    if not slot:
        return actions
    own = {key: value for key, value in members_decoder.decode(slot).items() if not key.startswith("_")}
    if not own:
        return actions
    return [msgspec.json.encode({**members_decoder.decode(action), **own}) for action in actions]
