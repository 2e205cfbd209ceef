"""Lessons from dsjson of Azure Personalizer, learning-loop and VW's own tools, with this service's features.

A rank request that was logged as dsjson has the same features here as when it is sent to the service: Personalizer
wrote the context's objects as ``FromUrl``, an action's id as ``_tag`` and ``i``, its features as ``j``. In dsjson of
others all namespaces are features, and an action without an id is known by its features.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from bandit.config import Config
from bandit.errors import InvalidFeatures
from bandit.features.hashing import resolve_item, resolve_shared
from bandit.features.nested import add
from bandit.learning.learner import Learner
from bandit.learning.retraining import Taught
from bandit.records import Features
from replay.readers.dsjson_types import Line, SlotOutcome, lines_decoder, outcome_decoder, whole_decoder
from replay.readers.lines import CutShort, blocks

BROKEN: Final = "no dsjson"
NOTE: Final = "notes of the service"
OUTCOME: Final = "outcomes that came too late"
NOT_SHOWN: Final = "never activated"
NO_LABEL: Final = "without a reward"
NO_CHOICE: Final = "that do not say what was shown"
NO_PROPENSITY: Final = "without a propensity, which the config's learning weight needs"
UNLEARNABLE: Final = "with features that cannot be learned"
CUT: Final = "cut short"
_CONTEXT: Final = "FromUrl"
_FEATURES: Final = "j"
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Lesson(NamedTuple):
    """One shown action.

    :ivar cost: minus the reward
    :ivar propensity: None if the log does not say
    """

    shared: bytes
    item: bytes
    cost: float
    propensity: float | None
    pdrop: float


class _Skip(Exception):
    """A line teaches nothing; the reason."""


def teach(
    paths: Sequence[Path], learner: Learner, document: Config, progress: Callable[[int, int], None] = lambda *_: None
) -> Taught:
    """Teach a learner what logs hold, in their order.

    :param document: rewards are clipped to its range, and weighed as it says
    :param progress: told, now and then, how many bytes of how many are read
    :raises BadLog: a file cannot be read
    """
    sizes = [path.stat().st_size for path in paths]
    skipped: Counter[str] = Counter()
    examples: dict[str, str] = {}
    n_lines = n_learned = 0
    low, high = document.reward_range

    def skip(reason: str, where: str) -> None:
        skipped[reason] += 1
        examples.setdefault(reason, where)

    for place, path in enumerate(paths):
        before = sum(sizes[:place])
        number = 0
        try:
            for block in blocks(path, lambda done, before=before: progress(before + done, sum(sizes))):  # type: ignore[misc]
                for text in block.splitlines():
                    number += 1
                    if not text.strip():
                        continue
                    n_lines += 1
                    try:
                        for lesson in lessons_of(text, traits=learner.args.traits):
                            if lesson.propensity is None and document.learning_weight.weight_of(0.5) != (
                                document.learning_weight.weight_of(1.0)
                            ):
                                raise _Skip(NO_PROPENSITY)
                            weight = document.learning_weight.weight_of(lesson.propensity or 1.0)
                            reward = min(max(-lesson.cost, low), high)
                            learner.learn(
                                lesson.shared, lesson.item, reward=reward, weight=weight / (1.0 - lesson.pdrop)
                            )
                            n_learned += 1
                    except _Skip as reason:
                        skip(str(reason), f"{path.name}:{number}")
                    except InvalidFeatures as error:
                        skip(UNLEARNABLE, f"{path.name}:{number}: {error.message}")
        except CutShort as error:
            skip(CUT, f"{path.name}: {error}")
    return Taught(n_lines, n_learned, dict(skipped), examples)


def lessons_of(text: bytes, *, traits: bool) -> list[Lesson]:
    """What one line of dsjson teaches.

    :param traits: of the model's arguments
    :raises _Skip: nothing
    :raises InvalidFeatures: a feature that the service would refuse
    """
    if text.lstrip().startswith(b"["):
        raise _Skip(NOTE)
    try:
        line = lines_decoder.decode(text)
        whole = _decode(whole_decoder.decode(text).c or b"{}")
        if line.c is None and outcome_decoder.decode(text).is_one():
            raise _Skip(OUTCOME)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _Skip(BROKEN) from None
    if line.skip or (line.waits and line.cost is None):
        raise _Skip(NOT_SHOWN)
    actions = whole.get("_multi")
    if not isinstance(actions, list):
        raise _Skip(BROKEN)
    pdrop = line.pdrop if line.pdrop is not None and 0.0 <= line.pdrop < 1.0 else 0.0
    context = _context(whole)
    if line.outcomes is not None:
        slots = whole.get("_slots")
        return list(_slots(line.outcomes, slots if isinstance(slots, list) else [], context, actions, pdrop, traits))
    if line.cost is None:
        raise _Skip(NO_LABEL)
    shared = resolve_shared(None, {}, context, traits=traits)
    return [Lesson(shared, _item(actions, _chosen(line), traits), line.cost, _propensity(line.p_label), pdrop)]


def _slots(
    outcomes: Sequence[SlotOutcome], slots: Sequence[Any], context: Features, actions: Sequence[Any], pdrop: float,
    traits: bool,
) -> Iterator[Lesson]:  # fmt: skip
    for place, outcome in enumerate(outcomes):
        if outcome.cost is None:
            continue
        slot = slots[place] if place < len(slots) and isinstance(slots[place], dict) else {}
        chosen, p = (one[0] if isinstance(one, list) and one else one for one in (outcome.a, outcome.p))
        if not isinstance(chosen, int):
            raise _Skip(NO_CHOICE)
        features = dict(context)
        add(features, "slot.id", str(slot.get("_id", outcome.id or place)), path="slot")
        add(features, "slot", slot.get(_FEATURES, slot), path="slot")
        probability = _propensity(p if isinstance(p, int | float) else None)
        shared = resolve_shared(None, {}, features, traits=traits)
        yield Lesson(shared, _item(actions, chosen, traits), outcome.cost, probability, pdrop)


def _chosen(line: Line) -> int:
    """Place of the shown action, counted from 0."""
    if line.index is not None:
        return line.index
    if line.action is not None:
        return line.action - 1
    raise _Skip(NO_CHOICE)


def _propensity(p: float | None) -> float | None:
    return p if p is not None and 0.0 < p <= 1.0 else None


def _context(whole: Mapping[str, Any]) -> Features:
    found: dict[str, Any] = {}
    for name, value in whole.items():
        if name == _CONTEXT:
            # A list of objects that stand for themselves.
            for part in value if isinstance(value, list) else [value]:
                add(found, "", part, path="context")
        elif not name.startswith("_"):
            add(found, name, value, path="context")
    return found


def _item(actions: Sequence[Any], place: int, traits: bool) -> bytes:
    """The action at a place, as the service would have it."""
    if not 0 <= place < len(actions) or not isinstance(actions[place], dict):
        raise _Skip(NO_CHOICE)
    action: dict[str, Any] = actions[place]
    found: dict[str, Any] = {}
    own = action.get("i")
    known = action.get("_tag", own.get("id") if isinstance(own, dict) else None)
    if _FEATURES in action and isinstance(own, dict):
        value = action[_FEATURES]
        for part in value if isinstance(value, list) else [value]:
            add(found, "", part, path="action")
    else:
        add(found, "", action, path="action")
    if "id" in found:
        # The id itself is a feature of the service's own; see `bandit.features.nested.flat_action`.
        found[".id"] = found.pop("id")
    if known is None:
        known = hashlib.blake2b(msgspec.json.encode(found, order="sorted"), digest_size=8).hexdigest()
    return resolve_item(str(known), found, traits=traits, path="action.features")
