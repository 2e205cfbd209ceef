"""One decision told as a story, from what the log holds of it: words first, then figures. Pure."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from bandit.config import LiveConfig
from bandit.records import Decision, EventReply, Feedback, SlotStory
from bandit.reward.formula import Formula, combine
from bandit.reward.signals import LENGTH, derive
from bandit.slate.rules import Seen

_MINUS: Final = "\N{MINUS SIGN}"
#: Two sums of the same numbers differ by no more.
_SAME: Final = 1e-6

_DEEDS: Final = {
    "like": ("liked it", "took the like back"),
    "skip": ("skipped it", "did not skip it"),
    "share": ("shared it", "did not share it"),
    "follow": ("followed its creator", "no longer follows its creator"),
    "comment": ("commented", "did not comment"),
    "not_interested": ("did not want it", "wants it again after all"),
    "report": ("reported it", "did not report it"),
}
_EVIDENCE: Final = {
    "impression": "the client says so",
    "activation": "the feed was shown, which counts as seen in this config",
    "cascade": "something further down was seen",
}
_STATUS: Final = {
    "open": "Nothing is decided yet: its window is open.",
    "unseen": "It taught nothing: nothing proves that it was seen.",
    "undefined_reward": "It taught nothing: the reward formula has no value there.",
    "altered": "It taught nothing: another list was shown than the one that was drawn.",
    "not_shown": "It taught nothing: the part of the feed where it stands was not shown.",
    "not_activated": "It taught nothing: nobody said that the feed was shown.",
    "pinned": "It taught nothing: the caller had put it there.",
    "held": "What it taught was taken back: the model that had learned it was held.",
}
_INELIGIBLE: Final = {
    "withdrawn": "withdrawn from the catalogue",
    "excluded": "excluded by the caller",
    "not_interested:item": "refused by the viewer before",
    "not_interested:creator": "by a creator whom the viewer does not want",
    "not_interested:sound": "with a sound that the viewer does not want",
    "not_interested:tag": "with a tag that the viewer does not want",
}


class Placed(NamedTuple):
    """A slot: what stands there, and how it got there.

    :ivar about: what is known of the item
    :ivar chance: between 0 and 1
    """

    number: int
    id: str
    about: str
    says: str
    chance: float
    exploratory: bool
    pinned: bool


class Deed(NamedTuple):
    """Something that was heard of the feed afterwards."""

    after: str
    text: str
    late: bool


class Term(NamedTuple):
    """A part of the reward formula with its value."""

    text: str
    value: str


class Taught(NamedTuple):
    """What a slot taught.

    :ivar terms: of the formula, those that are not 0; empty where the reward was sent as it is, or is another sum
    """

    number: int
    id: str
    mood: str
    says: str
    why_seen: str
    reward: str
    terms: list[Term]
    clipped: str
    figures: str


class Story(NamedTuple):
    """All of it."""

    headline: str
    second: str
    mood: str
    asked: list[str]
    features: list[tuple[str, str]]
    rules: list[str]
    draw: str
    slots: list[Placed]
    deeds: list[Deed]
    taught: list[Taught]
    formula: str


def tell(event: EventReply, decision: Decision, config: LiveConfig, items: Mapping[int, tuple[str, bytes]]) -> Story:
    """The story of a decision.

    :param config: the version that made it, as it was in its arm
    :param items: (id, features text) of the item versions that were drawn, as far as they are known
    """
    learned = [slot for slot in event.slots if slot.status == "learned"]
    n = len(event.slots)
    first, second = _headline(event, learned)
    rewards = [slot.reward for slot in learned if slot.reward is not None]
    mood = "undecided" if not rewards else "better" if sum(rewards) > 0 else "worse"
    features: dict[int, dict[str, Any]] = {number: features_in(text) for number, (_, text) in items.items()}
    of_slot = [features.get(slot.version, {}) for slot in decision.slots]
    return Story(
        headline=first,
        second=second,
        mood=mood,
        asked=_asked(event, decision),
        features=_shared(event),
        rules=_rules(event, decision, config),
        draw=_draw(event, decision, n),
        slots=[_placed(slot, about_item(of_slot[place]), event, decision) for place, slot in enumerate(event.slots)],
        deeds=_deeds(event),
        taught=[_taught(slot, event, config, of_slot[place]) for place, slot in enumerate(event.slots)],
        formula=config.document.reward,
    )


# ---------------------------------------------------------------- words


def number(value: float, digits: int = 2) -> str:
    """With a real minus sign, and a sign in front whatever it is.

    >>> number(0.5), number(-0.126)
    ('+0.50', '−0.13')
    """
    return ("+" if value >= 0 else _MINUS) + f"{abs(value):.{digits}f}"


def percent(share: float) -> str:
    """
    >>> percent(0.5), percent(0.0123), percent(0.00012)
    ('50 %', '1.2 %', '0.012 %')
    """
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.2g} %"


def moment(at: float) -> str:
    """
    >>> moment(0.0)
    '1 January 1970, 00:00:00 UTC'
    """
    when = datetime.fromtimestamp(at, UTC)
    return f"{when.day} {when:%B %Y, %H:%M:%S} UTC"


def after(seconds: float) -> str:
    """
    >>> after(0.42), after(75.0), after(7260.0), after(200_000.0)
    ('0.4 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def listed(words: Sequence[str]) -> str:
    """
    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def many(n: int, noun: str) -> str:
    """
    >>> many(1, "clip"), many(1200, "clip")
    ('1 clip', '1,200 clips')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _slots(places: Sequence[int]) -> str:
    """Slots by the number that people give them."""
    return f"{'slot' if len(places) == 1 else 'slots'} {listed([str(place + 1) for place in places])}"


# ---------------------------------------------------------------- parts


def _headline(event: EventReply, learned: Sequence[SlotStory]) -> tuple[str, str]:
    n = len(event.slots)
    size = f"A feed of {n}" if n else "An empty feed"
    first = f"{size}, drawn from {many(event.n_candidates, 'candidate')}."
    if learned:
        mean = sum(slot.reward or 0.0 for slot in learned) / len(learned)
        told = f"{len(learned)} of {n} slots taught something; they earned {number(mean)} on average."
    elif any(slot.status == "open" for slot in event.slots):
        told = "Nothing has been learned from it yet; its window is open."
    else:
        told = "It taught nothing."
    return first, f"{moment(event.at)}. {told}"


def _asked(event: EventReply, decision: Decision) -> list[str]:
    whose = f"Viewer {event.user}" if event.user is not None else "A viewer without an id"
    told = [
        f"{whose} was to get {many(decision.n_slots, 'slot')}; {many(event.n_candidates, 'candidate')} came with it."
    ]
    if decision.unknown:
        told.append(f"{many(len(decision.unknown), 'candidate')} had no features: the catalogue does not know them.")
    if event.deferred:
        told.append("It was asked for ahead of time: only an activation says that it was shown.")
    if decision.experiment is not None:
        told.append(f"The viewer is in arm “{decision.arm}” of the experiment “{decision.experiment}”.")
    return told


def _shared(event: EventReply) -> list[tuple[str, str]]:
    """Features of viewer and context as they were; whose they are is told before, and the slot is the model's own."""
    spaces: dict[str, Any] = msgspec.json.decode(event.shared)
    found = []
    for space, features in spaces.items():
        for name, value in features.items() if isinstance(features, dict) else ():
            if (space, name) == ("P", "mean"):
                found.append(("the viewer's mean reward", number(value)))
            elif space != "S" and (space, name) != ("U", "id"):
                found.append((name, f"{value:.3g}" if isinstance(value, float) else str(value)))
    return found


def _rules(event: EventReply, decision: Decision, config: LiveConfig) -> list[str]:
    told = [
        f"{many(count, 'candidate')} could not be shown: {_INELIGIBLE.get(reason, reason)}."
        for reason, count in event.ineligible.items()
        if count
    ]
    if count := _seen_before(decision):
        days = next((one.window_s / 86_400 for one in config.document.rules if isinstance(one, Seen)), None)
        window = "" if days is None else f" within the last {days:g} days"
        told.append(f"{many(count, 'candidate')} had stood in a feed of this viewer{window}, and waited.")
    for name, pairs in event.passed.items():
        for place, item in pairs:
            told.append(f"At slot {place + 1} “{name}” kept {item} away, which was better than all that was left.")
    for name, places in event.reserved.items():
        told.append(f"“{name}” set {_slots(places)} aside, by lot.")
    for name, places in event.relaxed.items():
        if name == "pins":
            told.append(f"What was to stand at {_slots(places)} by the caller's wish may not be shown.")
        else:
            told.append(f"“{name}” gave way at {_slots(places)}: it would have left nothing.")
    return told or ["No rule had to do anything."]


def _seen_before(decision: Decision) -> int:
    """How many candidates waited for having been seen before."""
    return int(np.unpackbits(np.frombuffer(decision.marks.get("seen", b""), np.uint8)).sum())


def _draw(event: EventReply, decision: Decision, n: int) -> str:
    if event.fallback is not None:
        made = f"No score could be had ({event.fallback}): it was drawn from the caller's order, with exploration."
    elif event.scored < event.n_candidates:
        made = f"The deadline left time to score {event.scored:,} of {many(event.n_candidates, 'candidate')}."
    else:
        made = "Every candidate was scored, and the slots were drawn one after the other."
    if decision.share is None or not n:
        return made
    return (
        f"{made} {percent(decision.share)} of such a feed was expected to be exploration; "
        f"{decision.explored} of {n} slots turned out to be."
    )


def _placed(slot: SlotStory, about: str, event: EventReply, decision: Decision) -> Placed:
    pinned = slot.slot in decision.pinned
    waiting = 0 if slot.slot in decision.relaxed.get("seen", ()) else _seen_before(decision)
    left = event.n_candidates - sum(event.ineligible.values()) - waiting - slot.slot
    times = slot.propensity * max(left, 1)
    if pinned:
        says = "The caller had put it there."
    elif slot.exploratory:
        says = "From outside the shortlist: chance put it here, to find something out."
    elif slot.propensity >= 1.0:
        says = "Nothing else could stand here."
    else:
        odds = f"{times:.0f} times as likely as by mere chance" if times >= 1.5 else "about what mere chance gives"
        says = f"Drawn with a chance of {percent(slot.propensity)}, {odds}."
    expected = "" if slot.score is None else f" The model expected {number(slot.score)}."
    return Placed(slot.slot + 1, slot.id, about, says + expected, slot.propensity, slot.exploratory, pinned)


def _deeds(event: EventReply) -> list[Deed]:
    numbers = {slot.id: slot.slot + 1 for slot in event.slots}
    found = []
    for one in event.follow_ups:
        when = after(max(0.0, one.at - event.at))
        if one.kind == "activation":
            found.append(Deed(when, "The feed was shown.", one.late))
            continue
        body: Feedback = msgspec.json.decode(one.body, type=Feedback)
        for item in body.items:
            where = f"Slot {numbers[item.id]}" if item.id in numbers else f"{item.id} (not of this feed)"
            done = [_deed(name, value) for name, value in item.signals.items()]
            if item.seen is not None:
                done.append("was seen" if item.seen else "was not seen")
            if item.reward is not None:
                done.append(f"reward {number(item.reward)}, as the client worked it out")
            if item.about:
                done.append(f"nor {listed([about.replace('tag:', 'the tag ') for about in item.about])}")
            if item.final:
                done.append("no more will come")
            found.append(Deed(when, f"{where}: {', '.join(done) or 'nothing was said'}.", one.late))
    return found


def _deed(name: str, value: float) -> str:
    if name == "watch_s":
        return f"watched {value:.3g} s"
    if name in _DEEDS:
        return _DEEDS[name][value <= 0] + (f" ({value:g} times)" if value > 1 else "")
    return f"{name} {value:g}"


def _taught(slot: SlotStory, event: EventReply, config: LiveConfig, features: Mapping[str, Any]) -> Taught:
    if slot.status != "learned" or slot.reward is None:
        mood = "refused" if slot.status == "held" else "undecided"
        says = _STATUS.get(slot.status, slot.status)
        return Taught(slot.slot + 1, slot.id, mood, says, "", "", [], "", "")
    evidence = slot.evidence or ""
    why = _EVIDENCE.get(evidence, f"{evidence.partition(':')[2]} was reported of it" if ":" in evidence else evidence)
    terms, clipped = _sum(slot, event, config, features)
    learned_after = after(max(0.0, (slot.learned_at or event.at) - event.at))
    model = "no published model holds it yet" if slot.model is None else f"in model {slot.model[:8]}"
    return Taught(
        slot.slot + 1,
        slot.id,
        "better" if slot.reward > 0 else "worse" if slot.reward < 0 else "undecided",
        "Learned.",
        why,
        number(slot.reward),
        terms,
        clipped,
        f"learned after {learned_after}, weight {slot.weight:g}, {model}",
    )


def _sum(slot: SlotStory, event: EventReply, config: LiveConfig, features: Mapping[str, Any]) -> tuple[list[Term], str]:
    """The formula with the numbers of a slot: its terms, and what the range made of their sum.

    Nothing where it is not what was learned, as of a reward that came as it is: better no sum than another one.
    """
    signals = signals_of(slot, event, config)
    length = features.get(LENGTH)
    length_s = float(length) if isinstance(length, int | float) and not isinstance(length, bool) else 0.0
    own = config.document.signals
    derived = {name: value for name, value in derive(signals, length_s, config.watch).items()
               if name not in own or name == LENGTH}  # fmt: skip
    found = terms_of(config.document.reward, {**derived, **signals})
    if found is None or not signals or slot.reward is None:
        return [], ""
    total = sum(value for _, value in found)
    low, high = config.document.reward_range
    if abs(min(max(total, low), high) - slot.reward) > _SAME:
        return [], ""
    clipped = "" if low <= total <= high else f"{number(total)}, which reward_range [{low:g}, {high:g}] limits"
    return [Term(text, number(value)) for text, value in found if value], clipped


def signals_of(slot: SlotStory, event: EventReply, config: LiveConfig) -> dict[str, float]:
    """What was reported of a slot by the time it was learned, combined as the config says."""
    found: dict[str, float] = {}
    for one in event.follow_ups:
        if one.kind != "feedback" or (slot.learned_at is not None and one.at > slot.learned_at):
            continue
        body: Feedback = msgspec.json.decode(one.body, type=Feedback)
        for name, value in (pair for item in body.items if item.id == slot.id for pair in item.signals.items()):
            known = config.document.signals.get(name)
            found[name] = combine("last" if known is None else known.combine, found.get(name), value)
    return found


def terms_of(formula: str, values: Mapping[str, float]) -> list[tuple[str, float]] | None:
    """What is added up at the top of a formula, with its value and its sign; None where one has no value.

    >>> terms_of("watch + 2 * like - skip / 2", {"watch": 0.5, "skip": 1.0})
    [('watch', 0.5), ('2 * like', 0.0), ('skip / 2', -0.5)]
    """
    found = []
    for sign, text in _split(ast.parse(formula, mode="eval").body, 1):
        value = Formula(text)(values)
        if value is None:
            return None
        found.append((text, sign * value if value else 0.0))
    return found


def _split(node: ast.expr, sign: int) -> list[tuple[int, str]]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        right = sign if isinstance(node.op, ast.Add) else -sign
        return [*_split(node.left, sign), *_split(node.right, right)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _split(node.operand, -sign)
    return [(sign, ast.unparse(node))]


def features_in(text: bytes) -> dict[str, Any]:
    """An item's features by their text."""
    found = msgspec.json.decode(text) if text else {}
    return found if isinstance(found, dict) else {}


def about_item(features: Mapping[str, Any]) -> str:
    """The attributes that everybody knows by name, in a line."""
    told = []
    tags = features.get("tags")
    if isinstance(tags, list):
        told.append(", ".join(str(tag) for tag in tags[:4]))
    if isinstance(features.get("creator"), str):
        told.append(f"by {features['creator']}")
    if isinstance(features.get("language"), str):
        told.append(features["language"])
    if isinstance(features.get(LENGTH), int | float):
        told.append(f"{features[LENGTH]:g} s")
    return " · ".join(each for each in told if each)
