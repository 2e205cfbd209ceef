"""What is learned from clients that keep silent? ``python -m tests.campaigns.silence [--ci] [--markdown FILE]``.

Simulated viewers look at feeds of ten, drawn uniformly from better and worse videos, and leave somewhere. What they did
is told by clients that are silent in one way or another; the trainer's own fold makes lessons of it. The mean reward of
the lessons is held against the mean reward of *all* slots that were seen, for better and worse videos apart, once with
leaving that does not depend on what was seen, once with leaving that does. Feeds are seeded: the outcome of a run is
always the same. Where a client is promised to be unbiased, a run fails if its bias passes 3.9 standard errors, which
happens by chance once in 10,000 times for each such number; where nothing random is left, it must be 0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from bandit import records
from bandit.config import Config, LiveConfig
from bandit.learning.fold import Fold, Record, configured_reward
from bandit.records import Decision, Feedback, ItemFeedback, Slot

F64 = NDArray[np.float64]

FEEDS, CI_FEEDS = 10_000, 1_500
SLOTS: Final = 10
SIGMAS: Final = 3.9
SEED: Final = 20
#: Kinds of videos: log odds of being enjoyed by the average viewer; viewers differ by a standard normal.
KINDS: Final = (0.3, -1.5)
LEAVING: Final = ("independent", "dependent")
LATE_SHARE: Final = 0.3


class Seen(NamedTuple):
    """One slot as its viewer saw it."""

    item: str
    kind: int
    enjoyed: bool
    liked: bool

    def signals(self, *names: str) -> dict[str, float]:
        """What could be told of it."""
        every = {"watch_s": 24.0 if self.enjoyed else 2.0, "skip": float(not self.enjoyed), "like": float(self.liked)}
        return {name: every[name] for name in names}


class Feed(NamedTuple):
    """One feed: all its slots' kinds, those seen, and a random number for each slot that is the client's own."""

    kinds: list[int]
    seen: list[Seen]
    luck: list[float]


#: (seconds after the feed was served, what is told)
Message = tuple[float, list[ItemFeedback]]
SOON, LATE = 30.0, 5_000.0


class Client(NamedTuple):
    """A way of being silent.

    :ivar promised: by leaving: ``exact`` (bias 0), ``unbiased``, ``nothing`` (teaches nothing), or no promise
    :ivar tells: of these signals, if it told of every seen slot: what the truth is worked out from
    """

    name: str
    promised: tuple[str, str]
    tells: tuple[str, ...]
    says: Callable[[Feed], list[Message]]
    config: Config


ALL = ("watch_s", "skip", "like")


def _each(feed: Feed, *names: str, **more: Any) -> list[Message]:
    return [(SOON, [ItemFeedback(one.item, one.signals(*names), **more) for one in feed.seen])]


def _some(feed: Feed, which: Callable[[Seen], bool], *names: str, **more: Any) -> list[Message]:
    told = [ItemFeedback(one.item, one.signals(*names), **more) for one in feed.seen if which(one)]
    return [(SOON, told)] if told else []


def _impressions_and_likes(feed: Feed, seen: Sequence[Seen]) -> list[Message]:
    likes = _some(feed, lambda one: one.liked, "like")
    return [(SOON, [ItemFeedback(one.item, seen=True) for one in seen]), *likes]


def _slot_by_slot(feed: Feed) -> list[Message]:
    lucky = zip(feed.seen, feed.luck, strict=False)
    return [
        (LATE if luck < LATE_SHARE else SOON, [ItemFeedback(one.item, one.signals("watch_s", "like"))])
        for one, luck in lucky
    ]


def _on_moving_on(feed: Feed) -> list[Message]:
    told = [ItemFeedback(one.item, one.signals("watch_s", "like")) for one in feed.seen[:-1]]
    return [(SOON, told)] if told else []


def _with(name: str, evidence: bool | Literal["above"]) -> Config:
    config = Config()
    config.signals[name].evidence = evidence
    return config


def _served() -> Config:
    return Config(evidence="served")


EXACT: Final = ("exact", "exact")
NOTHING: Final = ("nothing", "nothing")
NO_PROMISE: Final = ("", "")

CLIENTS: Final = (
    Client("`watch_s`, `skip` and likes of every seen slot", EXACT, ALL, lambda f: _each(f, *ALL), Config()),
    Client("the same, each `final`", EXACT, ALL, lambda f: _each(f, *ALL, final=True), Config()),
    Client("`watch_s` only, of every seen slot", EXACT, ("watch_s",), lambda f: _each(f, "watch_s"), Config()),
    Client("impressions only", EXACT, (), lambda f: _each(f, seen=True), Config()),
    Client("impressions, and likes", EXACT, ("like",), lambda f: _impressions_and_likes(f, f.seen), Config()),
    Client("the last slot's impression, and likes", EXACT, ("like",),
           lambda f: _impressions_and_likes(f, f.seen[-1:]), Config()),
    Client("everything, three feeds in ten too late", ("unbiased", "unbiased"), ALL,
           lambda f: [(LATE if f.luck[0] < LATE_SHARE else SOON, told) for _, told in _each(f, *ALL)], Config()),
    Client("`watch_s` and likes on moving on: never of the last", ("unbiased", ""), ("watch_s", "like"),
           _on_moving_on, Config()),
    Client("nothing", NOTHING, (), lambda f: [], Config()),
    Client("likes only", NOTHING, ("like",), lambda f: _some(f, lambda one: one.liked, "like"), Config()),
    Client("likes only, `evidence` is `above`", NO_PROMISE, ("like",),
           lambda f: _some(f, lambda one: one.liked, "like"), _with("like", "above")),
    Client("likes only, `evidence` is true: wrong", NO_PROMISE, ("like",),
           lambda f: _some(f, lambda one: one.liked, "like"), _with("like", True)),
    Client("likes only, config `evidence` is `served`", NO_PROMISE, ("like",),
           lambda f: _some(f, lambda one: one.liked, "like"), _served()),
    Client("skips only", NO_PROMISE, ("skip",), lambda f: _some(f, lambda one: not one.enjoyed, "skip"), Config()),
    Client("skips only, `evidence` is true: wrong", NO_PROMISE, ("skip",),
           lambda f: _some(f, lambda one: not one.enjoyed, "skip"), _with("skip", True)),
    Client("`final` with `watch_s`, only of what was liked", NO_PROMISE, ("watch_s", "like"),
           lambda f: _some(f, lambda one: one.liked, "watch_s", "like", final=True), Config()),
    Client("`watch_s` of the last slot only", NO_PROMISE, ("watch_s",),
           lambda f: _some(f, lambda one: one is f.seen[-1], "watch_s"), Config()),
    Client("`watch_s` and likes slot by slot, three in ten too late", NO_PROMISE, ("watch_s", "like"),
           _slot_by_slot, Config()),
)  # fmt: skip


# ---------------------------------------------------------------- viewers


def feeds_of(n: int, leaving: str, *, seed: int) -> list[Feed]:
    """Viewers, each with one feed. Dependent leaving: six times as likely after a slot that was not enjoyed."""
    rng = np.random.default_rng([seed, LEAVING.index(leaving)])
    kinds = rng.integers(len(KINDS), size=(n, SLOTS))
    odds = np.array(KINDS)[kinds] + rng.standard_normal((n, 1))
    enjoyed = rng.random((n, SLOTS)) < 1 / (1 + np.exp(-odds))
    liked = rng.random((n, SLOTS)) < np.where(enjoyed, 0.25, 0.01)
    hazard = np.where(enjoyed, 0.05, 0.30) if leaving == "dependent" else np.full((n, SLOTS), 0.15)
    left = rng.random((n, SLOTS)) < hazard
    n_seen = np.where(left.any(axis=1), left.argmax(axis=1) + 1, SLOTS)
    luck = rng.random((n, SLOTS))
    feeds = []
    for k in range(n):
        seen = [
            Seen(f"v{slot}", int(kinds[k, slot]), bool(enjoyed[k, slot]), bool(liked[k, slot]))
            for slot in range(n_seen[k])
        ]
        feeds.append(Feed(kinds[k].tolist(), seen, luck[k].tolist()))
    return feeds


def truth_of(feeds: Sequence[Feed], client: Client) -> tuple[F64, F64]:
    """Shape (n_feeds, n_kinds): sums of rewards of all seen slots, and how many they were."""
    live = LiveConfig(1, client.config)
    rewards, counts = np.zeros((len(feeds), len(KINDS))), np.zeros((len(feeds), len(KINDS)))
    worth: dict[tuple[bool, bool], float] = {}
    for k, feed in enumerate(feeds):
        for one in feed.seen:
            case = (one.enjoyed, one.liked)
            if case not in worth:
                reward = configured_reward(one.signals(*client.tells), None, live, 0.0)
                assert reward is not None
                worth[case] = reward
            rewards[k, one.kind] += worth[case]
            counts[k, one.kind] += 1
    return rewards, counts


# ---------------------------------------------------------------- through the fold


def lessons_of(feeds: Sequence[Feed], client: Client) -> tuple[F64, F64, int]:
    """Shape (n_feeds, n_kinds) each: sums of learned rewards and how many; and how many slots unseen taught."""
    slots = [Slot(f"v{slot}", slot + 1, 0.1, None, False) for slot in range(SLOTS)]
    decision = records.encode(Decision(slots, Raw(b"{}"), 1, None, 0, SLOTS, SLOTS))
    fold = Fold({1: LiveConfig(1, client.config)}, lambda _: decision)
    rewards, counts = np.zeros((len(feeds), len(KINDS))), np.zeros((len(feeds), len(KINDS)))
    unseen = 0
    for record in _log_of(feeds, client, decision):
        for lesson in fold.apply(record):
            if lesson.status == "learned":
                k = int(lesson.event_id)
                assert lesson.reward is not None
                rewards[k, feeds[k].kinds[lesson.slot]] += lesson.reward
                counts[k, feeds[k].kinds[lesson.slot]] += 1
                unseen += lesson.slot >= len(feeds[k].seen)
    return rewards, counts, unseen


def _log_of(feeds: Sequence[Feed], client: Client, decision: bytes) -> Iterator[Record]:
    """One feed every 10,000 seconds: whatever comes late comes before the next."""
    pos = 0
    for k, feed in enumerate(feeds):
        pos += 1
        yield Record(pos, 1e4 * k, "decision", str(k), decision)
        for after, told in sorted(client.says(feed), key=lambda message: message[0]):
            pos += 1
            yield Record(pos, 1e4 * k + after, "feedback", str(k), records.encode(Feedback(str(k), told)))
    yield Record(pos + 1, 1e4 * len(feeds), "tick", None, b"{}")


# ---------------------------------------------------------------- what was found


class Found(NamedTuple):
    """Of one client and one way of leaving.

    :ivar taught: learned slots over seen ones
    :ivar truth, learned: mean rewards, each kind of video counting alike; learned is None if nothing was
    :ivar bias, error: learned less truth, and its standard error over viewers
    :ivar gap: better less worse videos, as learned, over the true difference; None where there is none
    :ivar unseen: learned slots that nobody saw
    :ivar exact: in every feed just what was seen was learned, with its own reward
    """

    taught: float
    truth: float
    learned: float | None
    bias: float
    error: float
    gap: float | None
    unseen: int
    exact: bool


def compare(feeds: Sequence[Feed], client: Client) -> Found:
    """Learned against true, with the standard error of the difference (by linearisation, feeds independent)."""
    true, n_true = truth_of(feeds, client)
    told, n_told, unseen = lessons_of(feeds, client)
    truth = true.sum(axis=0) / n_true.sum(axis=0)
    taught = float(n_told.sum() / n_true.sum())
    if not n_told.any():
        return Found(taught, float(truth.mean()), None, 0.0, 0.0, None, unseen, False)
    learned = told.sum(axis=0) / n_told.sum(axis=0)
    influence = (told - learned * n_told) / n_told.mean(axis=0) - (true - truth * n_true) / n_true.mean(axis=0)
    error = float(influence.mean(axis=1).std(ddof=1) / np.sqrt(len(feeds)))
    gap = float((learned[0] - learned[1]) / (truth[0] - truth[1])) if abs(truth[0] - truth[1]) > 1e-9 else None
    exact = bool(np.array_equal(n_told, n_true) and np.allclose(told, true, atol=1e-12)) and unseen == 0
    means = float(truth.mean()), float(learned.mean())
    return Found(taught, means[0], means[1], means[1] - means[0], error, gap, unseen, exact)


def failures(client: Client, leaving: str, found: Found) -> list[str]:
    """What was promised and does not hold."""
    promise = client.promised[LEAVING.index(leaving)]
    what = f"{client.name}, {leaving} leaving: "
    if promise == "nothing" and found.learned is not None:
        return [f"{what}taught {found.taught:.1%} of what was seen, and should have taught nothing"]
    if promise == "exact" and not found.exact:
        return [f"{what}taught {found.taught:.1%}, {found.unseen} unseen, bias {found.bias:+.4f}; all seen is promised"]
    if promise == "unbiased" and (found.learned is None or abs(found.bias) > SIGMAS * found.error or found.unseen):
        return [f"{what}bias {found.bias:+.4f}, standard error {found.error:.4f}; none is promised"]
    return []


def row(client: Client, found: Sequence[Found]) -> str:
    """For the table."""
    cells = [client.name]
    for promise, one in zip(client.promised, found, strict=True):
        said = {"exact": " (exact)", "unbiased": " (promised)"}.get(promise, "")
        if one.learned is None:
            cells += ["0 %", f"{one.truth:.3f}", "nothing", ""]
            continue
        bias = "0" if abs(one.bias) < 1e-9 else f"{one.bias:+.3f} ± {one.error:.3f}"
        cells += [
            f"{100 * one.taught:.0f} %",
            f"{one.truth:.3f}",
            f"{bias}{said}",
            "" if one.gap is None else f"{one.gap:.2f}",
        ]
    return f"| {' | '.join(cells)} |"


def report(rows: Sequence[str], *, feeds: int, command: str) -> str:
    """The page."""
    return f"""# Clients that keep silent

What is learned when a client does not tell all? Simulated viewers look at feeds of ten slots and leave
somewhere; clients tell of it in one way or another; the trainer's fold makes lessons. *Truth* is the mean
reward of all slots that were seen, of the signals that this client has; *bias* is the mean of what was
learned less that, ± one standard error, better and worse videos counting alike. *Taught*: learned slots
over seen ones. *Gap*: how much better the better videos are than the worse, as learned, over what it truly
is: what a ranking lives on.
{feeds:,} feeds a row, the default config unless said otherwise. Made by

    {command}

| the client tells | taught | truth | bias, leaving independent | gap | taught | truth | bias, leaving dependent | gap |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
{chr(10).join(rows)}

*Leaving independent*: 15 % after every slot. *Leaving dependent*: 5 % after a slot that was enjoyed, 30 %
after one that was not; viewers who enjoy more then see more, and weigh more in the truth. Viewers differ in
how much they enjoy (a standard normal on the log odds). *Exact*: every seen slot is learned, no other one,
with its own reward; *promised*: within 3.9 standard errors of 0, or the run fails.

What follows:

* Whoever tells *something* of every seen slot is learned from exactly, whatever makes viewers leave: a
  `watch_s`, an impression, or an impression of the last slot alone, from which the cascade knows the rest.
* A client that tells of a slot only when the viewer moves on loses the last one. That is harmless while
  leaving does not depend on what was seen. Where it does, what made viewers leave is missing, and all
  videos look better than they are: the bias that remains. Tell of the last slot when the app goes to the
  background, or at least that it was seen.
* Likes alone teach nothing, on purpose. With `evidence` set to `above` a like proves that the slots above
  it were seen: far less biased than taking it as evidence of its own slot. But it hears more of viewers who
  like much. Skips are `above` by default, for clients that send them only when they happen.
* A slot that was seen, and of which no signal came, counts `default_reward`. So a signal that belongs to
  the reward is to be sent for *every* seen slot: told of the last slot only, or lost slot by slot, it pulls
  all others down. Send what belongs to a feed in one message, or choose a longer window.
* `final` only for what was liked teaches what was liked, and the slots above as if they were worth nothing.
  It is for clients that send it for every seen slot.
"""


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 if all that is promised holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.silence", description=__doc__)
    parser.add_argument("--feeds", type=int, default=FEEDS, help="of each client (default: %(default)s)")
    parser.add_argument("--ci", action="store_true", help=f"{CI_FEEDS} feeds of each: under half a minute")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    given = parser.parse_args(arguments)
    n = CI_FEEDS if given.ci else given.feeds
    drawn = {leaving: feeds_of(n, leaving, seed=SEED) for leaving in LEAVING}
    rows, wrong = [], []
    for client in CLIENTS:
        found = [compare(drawn[leaving], client) for leaving in LEAVING]
        rows.append(row(client, found))
        print(rows[-1], flush=True)
        for leaving, one in zip(LEAVING, found, strict=True):
            wrong += failures(client, leaving, one)
    if given.markdown is not None:
        command = f"python -m tests.campaigns.silence --{'ci' if given.ci else f'feeds {n}'}"
        given.markdown.write_text(report(rows, feeds=n, command=command), encoding="utf-8")
    print("\n".join(f"FAILED {each}" for each in wrong) or "all that is promised holds")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
